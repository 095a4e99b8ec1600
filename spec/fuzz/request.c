/*
** request: what a handler is told of a request: routes and percent-decoding (lua/pool/router.lua), query strings, forms and cookies
** (lua/pool/request.lua).
**
** Lines: routes, an empty line, then the path, the query string and the Cookie header. Nothing raises but what answers 400; what is
** decoded is UTF-8 without NUL; encoded and decoded again it is the same; a route that was found has every name it asks for.
*/
#include <stdlib.h>

#include "fuzz/fuzz.h"
#include "fuzz/lua.h"

static const char chunk[] =
    "local router = require 'pool.router'\n"
    "local request = require 'pool.request'\n"
    "local METHODS = { 'GET', 'POST', '*', 'OPTIONS', 'HEAD' }\n"
    "local function check_text(text) assert(utf8.len(text) and not text:find('\\0', 1, true)) end\n"
    "local function encode(text) return (text:gsub('[^%w]', function(c) return ('%%%02x'):format(c:byte()) end)) end\n"
    "local function check_match(routes, method, path)\n"
    "  local found, is, pattern = routes:match(method, path)\n"
    "  if not found then\n"
    "    assert(is.status == 400 or is.status == 404 or (is.status == 405 or is.status == 204) and #is.allow > 0)\n"
    "    return\n"
    "  end\n"
    "  local count = 0\n"
    "  for name, value in pairs(is) do\n"
    "    check_text(value)\n"
    "    assert(pattern:find('[:*]' .. name))\n"
    "    assert(pattern:find('*' .. name, 1, true) or #value > 0)\n"
    "    if pattern:find('/*' .. name, 1, true) then assert(not ('/' .. value .. '/'):find('/../', 1, true)) end\n"
    "    count = count + 1\n"
    "  end\n"
    "  assert(count == select(2, pattern:gsub('/[:*]', '')))\n"
    "end\n"
    "local function check_pairs(text)\n"
    "  local fine, values = pcall(request.pairs_of, text)\n"
    "  if not fine then assert(type(values) == 'table' and values.status == 400, values) return end\n"
    "  local again = {}\n"
    "  for name, value in pairs(values) do\n"
    "    check_text(name) check_text(value)\n"
    "    again[#again + 1] = encode(name) .. '=' .. encode(value)\n"
    "  end\n"
    "  local back = request.pairs_of(table.concat(again, '&'))\n"
    "  for name, value in pairs(values) do assert(back[name] == value) end\n"
    "end\n"
    "return function(text)\n"
    "  local routes, head, rest = router.new(), text:match('^(.-)\\n\\n(.*)$')\n"
    "  local path, query, cookie = (rest or text):match('^([^\\n]*)\\n?([^\\n]*)\\n?(.*)$')\n"
    "  for line in (head or '/:a'):gmatch('[^\\n]+') do\n"
    "    local method = METHODS[#line % #METHODS + 1]\n"
    "    local fine, err = pcall(routes.add, routes, method, line, line)\n"
    "    assert(fine or err:find('route ', 1, true), err)\n"
    "  end\n"
    "  for _, method in ipairs(METHODS) do check_match(routes, method, path) end\n"
    "  local decoded = router.decode(path)\n"
    "  if decoded then check_text(decoded) assert(router.decode(encode(decoded)) == decoded) end\n"
    "  check_pairs(query)\n"
    "  for name in cookie:gmatch('[^;=]+') do\n"
    "    local value = request.cookie_of(cookie, name)\n"
    "    assert(value == nil or cookie:find(value, 1, true))\n"
    "  end\n"
    "end\n";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) { return fuzz_lua_input(chunk, data, size); }
