/*
** lcore: the module `pool.core`: every file of this room opens its part of it. What people use is lua/pool.lua above it.
*/
#include "embed.h"
#include "lerror.h"
#include "ljson.h"
#include "llater.h"
#include "lmeter.h"
#include "lpolicy.h"
#include "lpool.h"
#include "lrecorder.h"
#include "lrows.h"
#include "lruntime.h"
#include "lscripted.h"
#include "lserver.h"
#include "lsettings.h"
#include "lsignal.h"
#include "lsim.h"
#include "ltask.h"
#include "lticker.h"
#include "ltrace.h"

int luaopen_pool_core(lua_State *L) {
  luaL_checkversion(L);
  lua_newtable(L);
  lerror_open(L);
  llater_open(L);
  ltrace_open(L);
  lruntime_open(L);
  ltask_open(L);
  lsettings_open(L);
  ljson_open(L);
  lrows_open(L);
  lpool_open(L);
  lconnection_open(L);
  lscripted_open(L);
  lpolicy_open(L);
  lserver_open(L);
  lsignal_open(L);
  lsim_open(L);
  lmeter_open(L);
  lrecorder_open(L);
  lticker_open(L);
  return 1;
}
