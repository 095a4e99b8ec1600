--- Reads the answers: `answers.read(path)` gives a list of { tool, file, place, check, text, why, line }, or nil and what is wrong.
---
--- An answer is two lines or more:
---
---   TOOL FILE FUNCTION CHECK: TEXT
---     why it is right as it is
---
--- The first is what spec/analyze prints of an open finding. TEXT may be the beginning of what the tool says; FUNCTION is `-` outside of
--- any. There are no line numbers, so that an answer holds while the code around it moves. One answer is for every finding that it fits.
--- A line that begins with # is a comment.
local answers = {}

local TOOLS = { gcc = true, ["clang-tidy"] = true, cppcheck = true, shellcheck = true }

--- What is wrong with the answer, nil for nothing.
local function complaint(answer)
  if not TOOLS[answer.tool] then return ("no tool is called %q"):format(answer.tool) end
  if answer.text == "" then return "it does not say what the finding says" end
  if #answer.why < 10 then return "it does not say why" end
end

function answers.read(path)
  local list, answer, number = {}, nil, 0
  local file, problem = io.open(path, "rb")
  if not file then return nil, problem end
  local function wrong(at, what) return nil, ("%s:%d: %s"):format(path, at, what) end
  for line in file:lines() do
    number = number + 1
    local tool, name, place, check, text = line:match "^(%S+) (%S+) (%S+) ([^%s:]+): (.*)$"
    if line:match "^%s+%S" and answer then
      answer.why = (answer.why .. " " .. line:match "^%s+(.*)$"):gsub("^ ", "")
    elseif tool and not line:match "^[%s#]" then
      answer = { tool = tool, file = name, place = place, check = check, text = text, why = "", line = number, used = 0 }
      list[#list + 1] = answer
    elseif line:match "%S" and not line:match "^#" then
      return wrong(number, "no answer: " .. line)
    end
  end
  file:close()
  for _, each in ipairs(list) do
    local what = complaint(each)
    if what then return wrong(each.line, what) end
  end
  return list
end

return answers
