--- The command behind spec/faults/run: lists the rows, runs those that the patterns find, prints the table.
local pool = require "pool"
local matrix = require "faults.matrix"
local report = require "faults.report"

local function child(name, how)
  local result = matrix.run(name, how, os.getenv "FAULT_DIR")
  io.stdout:write("RESULT ", pool.json.encode(result), "\n")
  io.stdout:flush()
  os.exit(0, true)
end

--- Does a word of the command line ask for it? A word is a file's name without .lua, or else plain text or a Lua pattern of the row's name.
local function wanted(row, words)
  if row.planted then return false end
  if #words == 0 then return true end
  for _, word in ipairs(words) do
    if matrix.is_file(word) then
      if row.file == word then return true end
    elseif row.name:find(word, 1, true) or row.name:find(word) then
      return true
    end
  end
  return false
end

local function loads(row) return row.loads or matrix.LOADS end

local function main(arguments)
  if arguments[1] == "--child" then return child(arguments[2], arguments[3]) end
  local words, list, form, only = {}, false, "plain", nil
  for _, word in ipairs(arguments) do
    if word == "--list" then list = true
    elseif word == "--markdown" then form = "markdown"
    elseif word == "--tasks" or word == "--serve" then only = word:sub(3)
    elseif word:sub(1, 2) == "--" then error("unknown flag " .. word, 0)
    else words[#words + 1] = word end
  end
  local out = not list and report.new(form)
  for _, row in ipairs(matrix.rows()) do
    if wanted(row, words) then
      for _, how in ipairs(loads(row)) do
        if list then
          print(("%s  %s (%s)"):format(row.file, row.name, how))
        elseif not only or only == how then
          out:row(row, how, matrix.judge(row, how))
        end
      end
    end
  end
  return list or out:finish()
end

os.exit(main(arg), true)
