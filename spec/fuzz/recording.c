/*
** recording: recordings and workload files (lua/pool/recording.lua, workloads.lua, sim_check.lua), and the simulator that they go into.
**
** The bytes are a file. Whatever is in it, reading never raises: it is a recording, a workload, or refused in words that name the file.
** What was read is in order, and the simulator takes it. A file that begins with NUL is instead two files, the second the older part of
** the first, with an empty line between them.
*/
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fuzz/fuzz.h"
#include "fuzz/lua.h"

static const char chunk[] =
    "local advise, recording = require 'pool.advise', require 'pool.recording'\n"
    "local sim, workloads = require 'pool.sim', require 'pool.workloads'\n"
    "local function check_recorded(is)\n"
    "  local r = is.requests\n"
    "  for _, name in ipairs { 'waited', 'held', 'outcome', 'key', 'priority' } do assert(#r[name] == #r.at) end\n"
    "  for i = 1, #r.at do\n"
    "    assert((i == 1 or r.at[i - 1] <= r.at[i]) and r.waited[i] >= 0 and r.held[i] >= 0)\n"
    "    assert(r.key[i] >= 0 and r.key[i] <= is.keys and r.priority[i] >= 0 and r.priority[i] <= 9)\n"
    "  end\n"
    "  assert(is.seconds >= 0 and type(is.whole) == 'boolean')\n"
    "end\n"
    "local function most(t)\n" /* the largest number in it: how long a run of it may take */
    "  if type(t) ~= 'table' then return type(t) == 'number' and t or 0 end\n"
    "  local largest = 0\n"
    "  for _, each in pairs(t) do largest = math.max(largest, most(each)) end\n"
    "  return largest\n"
    "end\n"
    "local function simulate(workload)\n"
    "  for _, source in ipairs(#workload.workload == 0 and { workload.workload } or workload.workload) do\n"
    "    if most(source.arrival) > 2000 then return end\n"
    "  end\n"
    "  local fine, result, err = pcall(sim.run, { workload = workload, duration = math.min(workload.duration, 0.05), timeline = 0,\n"
    "    score = false, checked = true })\n"
    "  if fine then assert(result or err.kind == 'settings' or err.kind == 'overloaded', err) return end\n"
    "  assert(type(result) == 'string' and result:find('sim.run', 1, true) or tostring(result):find('^[%w_.]+: '), result)\n"
    "end\n"
    "return function(path)\n"
    "  local is, message = recording.read(path)\n"
    "  if is then check_recorded(is) else assert(message:find(path, 1, true), message) end\n"
    "  local trace, why = recording.trace(path)\n"
    "  assert(trace or why)\n"
    "  if not is or is.seconds < 1 then\n" /* advice replays it all, several times */
    "    local found, none = advise.from(path)\n"
    "    assert(found or type(none) == 'string')\n"
    "  end\n"
    "  local workload, wrong = workloads.get(path)\n"
    "  if not workload then assert(type(wrong) == 'string' and #wrong > 0) return end\n"
    "  assert(workload.name and workload.duration > 0)\n"
    "  simulate(workload)\n"
    "end\n";

static void older_write(const char *path, const uint8_t *bytes, size_t len) {
  char older[300];
  snprintf(older, sizeof older, "%s.1", path);
  FILE *file = fopen(older, "wb");
  HOLDS(file != NULL && fwrite(bytes, 1, len, file) == len && fclose(file) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  lua_State *L = fuzz_lua(chunk);
  const char *path = fuzz_file();
  char older[300];
  bool parts = size > 0 && data[0] == 0;
  snprintf(older, sizeof older, "%s.1", path);
  if (parts) {
    const uint8_t *empty = memmem(data, size, "\n\n", 2);
    const uint8_t *end = empty ? empty + 1 : data + size, *rest = empty ? empty + 2 : end;
    fuzz_file_write(data + 1, (size_t)(end - data) - 1);
    older_write(path, rest, (size_t)(data + size - rest));
  } else {
    fuzz_file_write(data, size);
  }
  lua_pushstring(L, path);
  fuzz_lua_call(L, 1);
  if (parts) unlink(older);
  lua_settop(L, 0);
  lua_gc(L, LUA_GCSTEP, 0);
  return 0;
}
