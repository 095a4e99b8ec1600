/*
** ljson: pool.json.encode and pool.json.decode. The encoder is ours (rows, plain tables; db/json_text.h); decoding is jansson's.
*/
#ifndef POOL_LUA_LJSON_H
#define POOL_LUA_LJSON_H

#include <lauxlib.h>
#include <lua.h>

#include "db/json_text.h"

#define LJSON_DEPTH_MAX 128          /* levels of nesting, both ways */
#define LJSON_SIZE_MAX (64u << 20)   /* bytes, both ways */

/* Appends the value at index as JSON. Raises for what JSON cannot hold (a function, mixed keys, a cycle or too deep, text
   that is not UTF-8), naming the place ($.a[1]); the buffer must then be owned by something collectable. */
void ljson_append(lua_State *L, int index, struct json_buffer *);

/* Pushes the decoded value. false: *error (POOL_JSON) says what and where, and nothing is pushed. Null is pool.null at every
   level; objects and arrays get what makes them encode back as they were ([] stays []). */
bool ljson_decode(lua_State *L, const char *text, size_t len, struct pool_error *error);

/* A json cell for rows: decoded, or its own text when Lua cannot hold it exactly. Always pushes one value. */
void ljson_push_cell(lua_State *L, const char *text, size_t len);

void ljson_push_null(lua_State *L);           /* pool.null: lightuserdata(NULL) */
void ljson_open(lua_State *L);                /* sets the field `json` in the table on top of the stack */

#endif
