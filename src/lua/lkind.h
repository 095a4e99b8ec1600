/*
** lkind: how rows, JSON and parameters know each other's values. An array (pool.array{...}, a decoded [], an array cell, a
** result's rows), pool.bytes(s), pool.jsonb(v) and a row carry a metatable with the kind under one private key.
**
** The metatables are shared, so `__metatable` hides them: nobody can change what belongs to other results.
*/
#ifndef POOL_LUA_LKIND_H
#define POOL_LUA_LKIND_H

#include <lauxlib.h>
#include <lua.h>

enum lkind {
  LKIND_NONE,        /* a plain table, or any other value */
  LKIND_ARRAY,       /* a table: an array even when empty */
  LKIND_BYTES_ARRAY, /* a table: its strings are bytes */
  LKIND_BYTES,       /* a userdata; its user value is the string */
  LKIND_JSONB,       /* a userdata; its user value is the JSON text */
  LKIND_ROW          /* a table; lshape.h knows its columns */
};

/* What the value at index is. Never runs Lua code, leaves the stack as it is. */
enum lkind lkind_of(lua_State *L, int index);

/* Gives the table or userdata on top of the stack the metatable of its kind (not LKIND_ROW, which has one a shape). */
void lkind_set(lua_State *L, enum lkind kind);

/* Makes the table on top of the stack a metatable of this kind: the private key, __name and __metatable. */
void lkind_mark(lua_State *L, enum lkind kind);

/* Makes the table at `metatable` a row's: pops the shape's userdata from the top and keeps it under the private key. */
void lkind_mark_row(lua_State *L, int metatable);

/* The shape's userdata of the row metatable at index, pushed; or nil. */
void lkind_push_shape(lua_State *L, int metatable);

/* The length of the array (of any kind, or plain) at index: its field n if it is one of ours and has it, else #t. -1 when it is no
   array, with *wrong saying how: keys beside 1..#t, a hole without n, a bad n. */
lua_Integer lkind_length(lua_State *L, int index, const char **wrong);

#endif
