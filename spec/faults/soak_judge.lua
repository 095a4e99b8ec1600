--- The judge of the soak: pure functions from what was seen to rows of a table and verdicts.
---
--- A series is flat when the median of its last third is at most the median of its first third and a margin; the thirds are of the
--- samples after the warm-up. A median, since a sample may fall on a burst; thirds, since a leak grows through all of them.
local judge = {}

local KiB, MiB = 1024, 1024 * 1024

--- What may grow by how much: a share of the first third's median, and a constant. Of the resident memory that is what two policies may
--- take (policy_memory, as the soak sets it): a greedy one, live and in its dry run, leaves the process that much larger, once. What malloc
--- has in use depends on how many connections and versions there are at the moment; coroutines and tasks on how many clients are being
--- answered; connections on the size of the moment; descriptors on what opens, closes and is SQLite's; threads are started as they are
--- needed, eight of a pool. A single one of these that is lost shows at the end, when there must be as many as at the beginning.
--- `unsanitized`: not judged where the sanitizers keep what was freed.
judge.FLAT = {
  { name = "rss", what = "resident memory", unit = MiB, share = 0.05, constant = 4 * MiB, unsanitized = true },
  { name = "used", what = "malloc: in use", unit = KiB, share = 0.1, constant = 1 * MiB, unsanitized = true },
  { name = "lua", what = "Lua, collected", unit = KiB, share = 0.05, constant = 128 * KiB },
  { name = "coroutines", what = "coroutines", unit = 1, share = 0.1, constant = 12 },
  { name = "tasks", what = "tasks", unit = 1, share = 0.1, constant = 12 },
  { name = "descriptors", what = "descriptors but connections", unit = 1, share = 0, constant = 8 },
  { name = "server", what = "connections at the server", unit = 1, share = 0, constant = 12 },
  { name = "threads", what = "threads", unit = 1, share = 0, constant = 8 },
}

--- What is as it was at the beginning once all is done. Threads: a pool that is still there keeps those that it has (names, cancels).
judge.BACK = { "descriptors", "coroutines", "tasks", "connections", "pools", "leased", "waiting", "total", "threads" }

function judge.median(values)
  local sorted = table.move(values, 1, #values, 1, {})
  table.sort(sorted)
  local middle = (#sorted + 1) // 2
  if #sorted == 0 then return nil end
  return #sorted % 2 == 1 and sorted[middle] or (sorted[middle] + sorted[middle + 1]) / 2
end

--- The medians of the first and the last third of what was seen of `name` from `warm` on: samples are { at = seconds, [name] = number }.
function judge.thirds(samples, name, warm)
  local values = {}
  for _, sample in ipairs(samples) do
    if sample.at >= warm and type(sample[name]) == "number" then values[#values + 1] = sample[name] end
  end
  local third = #values // 3
  if third < 3 then return nil end
  return judge.median(table.move(values, 1, third, 1, {})), judge.median(table.move(values, #values - third + 1, #values, 1, {}))
end

--- A row of the table for a figure that must be flat.
function judge.flat(process, samples, figure, warm)
  local first, last = judge.thirds(samples, figure.name, warm)
  local row = { process = process, what = figure.what, unit = figure.unit, first = first, last = last }
  if not first then
    row.fine, row.why = false, "too few samples"
    return row
  end
  row.allowed = first * figure.share + figure.constant
  row.fine = last - first <= row.allowed
  if not row.fine then row.why = "grew" end
  return row
end

--- What the counters of a sample say that cannot be; nil when they add up. One without counters says nothing: see judge.counts.
function judge.sums(s)
  local ended = s.grants + s.timeouts + s.rejected + s.cancelled + s.errors + s.waiting
  if s.arrivals ~= ended then return ("%d arrived, %d were answered or wait"):format(s.arrivals, ended) end
  if s.grants ~= s.releases + s.leased then return ("%d granted, %d released or out"):format(s.grants, s.releases + s.leased) end
end

--- Has this sample counters?
function judge.counts(s) return s.arrivals ~= nil end

--- The terms of that sum that nothing ever came to: a sum that they are in was not tried. `ended`: counters at the end; samples: for
--- `waiting`, which is 0 in the end.
function judge.untried(ended, samples)
  local most, missing = 0, {}
  for _, s in ipairs(samples) do most = math.max(most, s.waiting or 0) end
  for _, name in ipairs { "grants", "timeouts", "rejected", "cancelled", "errors" } do
    if (ended[name] or 0) == 0 then missing[#missing + 1] = name end
  end
  if most == 0 then missing[#missing + 1] = "waiting" end
  return missing
end

--- Right answers and all answers between looks that no fault touches. `tallies`: { at =, right =, typed = }, by the time, both ever
--- growing; `faults`: { from =, till = }, and so many seconds after one still count as its own.
function judge.calm(tallies, faults, after)
  local right, all, last = 0, 0, nil
  for _, tally in ipairs(tallies) do
    local touched = not last
    for _, fault in ipairs(faults) do touched = touched or (fault.from < tally.at and fault.till + after > last.at) end
    if not touched then
      right = right + tally.right - last.right
      all = all + tally.right - last.right + tally.typed - last.typed
    end
    last = tally
  end
  return right, all
end

--- What is not back at its beginning; nil when all is. `more`: what may remain, by name.
function judge.back(first, last, more)
  local off = {}
  for _, name in ipairs(judge.BACK) do
    local was, is = first[name], last[name]
    if was and is and is > was + (more[name] or 0) then off[#off + 1] = ("%d %s, it began with %d"):format(is, name, was) end
  end
  return #off > 0 and table.concat(off, "; ") or nil
end

local function shown(value, unit)
  if not value then return "-" end
  return unit == 1 and ("%g"):format(value) or ("%.1f %s"):format(value / unit, unit == MiB and "MiB" or "KiB")
end

--- The table as text, a line a row, columns aligned.
function judge.table(rows)
  local lines = { { "process", "figure", "first third", "last third", "may grow by", "" } }
  for _, row in ipairs(rows) do
    lines[#lines + 1] = { row.process, row.what, shown(row.first, row.unit), shown(row.last, row.unit), shown(row.allowed, row.unit),
      row.fine and "flat" or row.why }
  end
  local widths = {}
  for _, cells in ipairs(lines) do
    for i, cell in ipairs(cells) do widths[i] = math.max(widths[i] or 0, #cell) end
  end
  for n, cells in ipairs(lines) do
    for i, cell in ipairs(cells) do cells[i] = cell .. (" "):rep(widths[i] - #cell) end
    lines[n] = table.concat(cells, "  "):gsub("%s+$", "")
  end
  return table.concat(lines, "\n")
end

return judge
