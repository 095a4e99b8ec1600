/*
** ljson: pool.json.encode (ljson.c) and pool.json.decode (ldecode.c). The encoder is ours (rows, plain tables; db/json_text.h);
** decoding is jansson's.
*/
#ifndef POOL_LUA_LJSON_H
#define POOL_LUA_LJSON_H

#include <lauxlib.h>
#include <lua.h>

#include "db/json_text.h"

#define LJSON_DEPTH_MAX 128        /* levels of nesting, both ways */
#define LJSON_SIZE_MAX (64u << 20) /* bytes, both ways */
#define LJSON_PARTS_MAX (4u << 20) /* of [ { , : outside strings, decoding: each may cost 150 bytes, so 640 MiB at the very most */

/* Pushes a userdata "pool.Buffer" and gives the empty buffer in it, which it frees when collected; json_buffer_free frees it earlier. */
struct json_buffer *ljson_buffer(lua_State *L);

/* Appends the value at index as JSON. Raises for what JSON cannot hold (a function, mixed keys, a cycle or too deep, text
   that is not UTF-8), naming the place ($.a[1]), and for want of memory; the buffer must then be owned by something collectable. */
void ljson_append(lua_State *L, int index, struct json_buffer *);

/* Pushes the JSON of the value at index as a string. Raises as ljson_append does. */
void ljson_push_text(lua_State *L, int index);

/* Pushes the decoded value. false: *error (POOL_JSON) says what and where, and nothing is pushed. Null is pool.null at every
   level; arrays get the array metatable (lkind.h), so that [] stays []; objects are plain tables. */
bool ljson_decode(lua_State *L, const char *text, size_t len, struct pool_error *error);

/* A json cell for rows: decoded, or its own text when Lua cannot hold it exactly. Always pushes one value. */
void ljson_push_cell(lua_State *L, const char *text, size_t len);

void ljson_push_null(lua_State *L); /* pool.null: lightuserdata(NULL) */
void ljson_open(lua_State *L);      /* sets the field `json` in the table on top of the stack */

#endif
