-- Run by busted before the specs. What was printed must not be lost with a process that dies in a spec.
io.stdout:setvbuf "no"
