/*
** dotenv: `.env` files and flags as settings (lua/pool/dotenv.lua, flags.lua, config.lua, and the settings' own tables in C).
**
** The text is a `.env` file, and its words are a command line too. Nothing raises; settings are given whole or refused with a message that
** says where: the file's line, the variable, the flag. A malformed line is never shown. What is given is in range: the settings' tables
** take it as it is. A URL that lands in DATABASE_URL is in no message.
*/
#include <stdlib.h>

#include "fuzz/fuzz.h"
#include "fuzz/lua.h"

static const char chunk[] =
    "local core = require 'pool.core'\n"
    "local dotenv, flags = require 'pool.dotenv', require 'pool.flags'\n"
    "local make_config = assert(loadfile(package.searchpath('pool.config', package.path)))\n" /* it remembers what it warned of */
    "local WRONG = { 'not NAME=value', 'a quote that does not end', 'something follows the closing quote', 'the values are too long' }\n"
    "local function nothing() end\n"
    "local known = { help = {}, listen = { value = true }, later = { later = 'a later issue' } }\n"
    "for _, setting in ipairs(core.settings()) do known[setting.name:gsub('_', '-')] = { value = setting.type ~= 'flag' } end\n"
    "local function check_dotenv(text)\n"
    "  local values, message = dotenv.parse(text, '.env', nothing)\n"
    "  if not values then\n"
    "    local line, what = message:match('^%.env:(%d+): (.*)$')\n"
    "    local fine = false\n"
    "    for _, each in ipairs(WRONG) do fine = fine or each == what end\n"
    "    assert(fine, message)\n"
    "    local lines = select(2, text:gsub('\\r\\n?', '\\n'):gsub('\\n', '')) + 1\n"
    "    assert(tonumber(line) >= 1 and tonumber(line) <= lines)\n"
    "    return\n"
    "  end\n"
    "  for name, entry in pairs(values) do assert(#name > 0 and type(entry.value) == 'string' and entry.line >= 1) end\n"
    "end\n"
    "local function check_values(values)\n"
    "  for name, value in pairs(values) do\n"
    "    if name ~= 'database_url' then\n"
    "      local text = math.type(value) == 'float' and ('%.17g'):format(value) or tostring(value)\n"
    "      local again, message = core.parse_setting(name, text)\n"
    "      assert(again == value, message)\n"
    "    end\n"
    "  end\n"
    "end\n"
    "local function check_config(text, given)\n"
    "  local log = {}\n"
    "  local values, sources = make_config().read({}, { flags = given, environment = nothing, read_file = function() return text end,\n"
    "    log = function(_, message) log[#log + 1] = message end })\n"
    "  for _, message in ipairs(log) do assert(message:find('^%.env:%d+: DB_POOL_[%w_]* is no setting'), message) end\n"
    "  if values then return check_values(values) end\n"
    "  assert(sources:find('^%.env:%d+: ') or sources:find('^%-%-'), sources)\n"
    "  local file = dotenv.parse(text, '.env', nothing)\n"
    "  local url = file and file.DATABASE_URL and file.DATABASE_URL.value or ''\n"
    "  if #url > 24 and not next(given) then assert(not sources:find(url, 1, true), sources) end\n"
    "end\n"
    "return function(text)\n"
    "  check_dotenv(text)\n"
    "  local words = {}\n"
    "  for word in text:gmatch('%S+') do words[#words + 1] = word end\n"
    "  local values, rest = flags.parse(words, known)\n"
    "  assert(values and type(rest) == 'table' or type(rest) == 'string' and rest:find('%-'), rest)\n"
    "  local given = {}\n"
    "  for name, value in pairs(values or {}) do\n"
    "    assert(known[name] and type(value) == 'string')\n"
    "    given[name] = value\n"
    "  end\n"
    "  given.help, given.listen = nil, nil\n"
    "  check_config(text, {})\n"
    "  check_config(text, given)\n"
    "end\n";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) { return fuzz_lua_input(chunk, data, size); }
