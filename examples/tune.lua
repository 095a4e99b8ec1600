-- A tuning policy in ten lines: more connections while people wait, fewer when most stand idle. Try it in virtual time, then live:
--
--   build/release/pool simulate examples/tune.lua --workload diurnal --seeds 5
--   build/release/pool serve examples/05_tasks.lua --policy examples/tune.lua        (change this file while it runs)

return {
  name = "grow-on-wait",
  tick = function(s, state)
    state.calm = s.wait.p95 > 0.010 and 0 or (state.calm or 0) + 1
    if state.calm == 0 then return { size = s.settings.size + 2 }, ("wait p95 %.0f ms"):format(s.wait.p95 * 1000) end
    if state.calm > 60 and s.leased_max < s.size / 2 then return { size = s.settings.size - 1 }, "half of it stands idle" end
  end,
}
