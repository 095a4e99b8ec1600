--- Backends and servers that end: one by one, all at once, for good or for a moment.

return {
  {
    name = "backend terminated while idle",
    allow = "", quick = true, -- seen when it ends: nobody is given it
    settings = { size = 8, max_overflow = 0, min_idle = 8 }, tasks = 3, -- more connections than callers
    saw = function(w) return w:stats().lost >= 10 end,
    strike = function(w)
      for _ = 1, 10 do
        w:hit("pg_terminate_backend", "state = 'idle' and state_change < now() - interval '0.1 s'")
        w:more(5)
      end
    end,
  },
  {
    name = "backend terminated in a query",
    allow = "lost", saw = "57P01", quick = true,
    strike = function(w)
      for _ = 1, 10 do
        w:hit("pg_terminate_backend", "state = 'active' and query like '%pg_sleep%'")
        w:more(5)
      end
    end,
  },
}
