rockspec_format = "3.0"
package = "pool"
version = "scm-1"
source = { url = "git+file://." } -- `luarocks make` builds the directory it is called in
description = {
  summary = "A Lua-scriptable database pool runtime for PostgreSQL and SQLite",
  detailed = [[
A pool core in C on libev and libpq, as require "pool": request handlers as coroutines that never block the loop, a pool that is
tuned while it runs, and the command `pool serve app.lua`.]],
  license = "MIT",
}
supported_platforms = { "linux" }
dependencies = { "lua >= 5.4, < 5.5" }
build = {
  type = "command",
  build_command = "rm -rf build/rock && cmake -S . -B build/rock $(command -v ninja >/dev/null && echo -G Ninja)"
    .. " -DCMAKE_BUILD_TYPE=Release -DPOOL_SPECS=OFF"
    .. " && cmake --build build/rock",
  install_command = "mkdir -p '$(BINDIR)' '$(LIBDIR)/pool' '$(LUADIR)' && cp build/rock/bin/pool '$(BINDIR)'"
    .. " && cp build/rock/lib/pool/core.so '$(LIBDIR)/pool' && cp -R lua/. '$(LUADIR)'",
}
