--- How a file is compiled: lua5.4 command.lua COMPILE_COMMANDS FILE prints the command, without its -o and without -Werror alone.
local file <close> = assert(io.open(arg[1]))
for entry in file:read "a":gmatch "%b{}" do
  local command = entry:match '"command": "(.-)",\n'
  if entry:match '"file": "([^"]*)"':sub(-#arg[2] - 1) == "/" .. arg[2] then
    print((command:gsub('\\"', '"'):gsub("^%S*ccache ", ""):gsub(" %-o %S+", ""):gsub(" %-Werror ", " ")))
    os.exit(true)
  end
end
io.stderr:write("no command compiles ", arg[2], "\n")
os.exit(false)
