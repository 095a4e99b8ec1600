std = "lua54"
max_line_length = 140
exclude_files = { "build*/**" }
files["spec"] = { std = "+busted" }
files["lua/pool/types.lua"] = { ignore = { "211", "212", "241", "131" } } -- declarations for editors; nothing runs it
files["lua/pool/policy"] = { read_globals = { "compose" } } -- what the policy host offers beside Lua's own
