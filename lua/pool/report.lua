--- What simulations showed, as one HTML page that needs nothing else: `pool simulate --html FILE`. Charts are inline SVG stretched by the
--- browser, their labels are HTML beside them, so that a telephone reads them too. Pure: text in, text out; every name is escaped.

local report = {}

local POINTS, DECISIONS = 600, 300 -- the most points a line has, the most rows of decisions

local ESCAPES = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;", ["'"] = "&#39;" }

local function escape(text) return (tostring(text):gsub("[&<>\"']", ESCAPES)) end

-- ---- numbers ----

--- For an axis or a cell: as short as it says what it is.
local function short(value)
  if value == math.huge or value ~= value then return "-" end
  if value >= 10000 then return ("%.0fk"):format(value / 1000) end
  if value == math.floor(value) then return ("%d"):format(value) end
  return ("%.3g"):format(value)
end

--- Up to five steps of 1, 2 or 5 times a power of ten that reach `most`.
local function ticks_of(most)
  if most <= 0 then most = 1 end
  local power = 10 ^ math.floor(math.log(most / 4, 10))
  local step = power
  for _, each in ipairs { 1, 2, 5, 10 } do
    step = each * power
    if most / step <= 4.001 then break end
  end
  local ticks = {}
  for i = 0, math.ceil(most / step - 1e-9) do ticks[#ticks + 1] = i * step end
  return ticks
end

local function decades_of(least, most)
  local ticks, value = {}, least
  while true do
    ticks[#ticks + 1] = value
    if value >= most then return ticks end
    value = value * 10
  end
end

-- ---- series ----

--- The most of each of at most POINTS runs of steps: a chart that hid a peak would lie.
local function thinned(values)
  local each = math.ceil(#values / POINTS)
  if each <= 1 then return values end
  local made = {}
  for i = 1, #values, each do
    local most = values[i]
    for j = i + 1, math.min(#values, i + each - 1) do most = math.max(most, values[j]) end
    made[#made + 1] = most
  end
  return made
end

local function column(timeline, name, factor)
  local values = {}
  for i, step in ipairs(timeline) do values[i] = step[name] * (factor or 1) end
  return thinned(values)
end

local function most_of(series)
  local most = 0
  for _, line in ipairs(series) do
    for _, value in ipairs(line.values) do most = math.max(most, value) end
  end
  return most
end

-- ---- one chart ----

--- value -> 0 (bottom) .. 100 (top)
local function scale_of(ticks, log)
  local low, high = ticks[1], ticks[#ticks]
  if not log then return function(value) return 100 * (value - low) / (high - low) end end
  local range = math.log(high / low)
  return function(value) return 100 * math.log(math.max(value, low) / low) / (range > 0 and range or 1) end
end

local function line_of(line, scale)
  local n, points = #line.values, {}
  for i, value in ipairs(line.values) do
    points[i] = ("%.1f,%.1f"):format(n > 1 and 1000 * (i - 1) / (n - 1) or 0, 100 - scale(value))
  end
  return ('<polyline class="%s" points="%s"/>'):format(line.class, table.concat(points, " "))
end

--- Where the database was in trouble, or others held more of it than at first: { {from, to}, ... } as shares of the run.
local function troubles_of(timeline)
  local bands, n, from = {}, #timeline, nil
  for i, step in ipairs(timeline) do
    local bad = step.speed < 1 or step.others > timeline[1].others or step.open_failures > 0
    if bad and not from then from = i - 1 end
    if from and (not bad or i == n) then
      bands[#bands + 1] = { from / n, (bad and i or i - 1) / n }
      from = nil
    end
  end
  return bands
end

local function svg_of(chart, ticks, run)
  local scale, parts = scale_of(ticks, chart.log), {}
  for _, band in ipairs(run.troubles) do
    parts[#parts + 1] = ('<rect class="trouble" x="%.1f" width="%.1f" y="0" height="100"/>'):format(1000 * band[1],
      1000 * (band[2] - band[1]))
  end
  for _, tick in ipairs(ticks) do
    parts[#parts + 1] = ('<path class="grid" d="M0 %.1fH1000"/>'):format(100 - scale(tick))
  end
  for _, at in ipairs(run.marks) do parts[#parts + 1] = ('<path class="mark" d="M%.1f 0V100"/>'):format(1000 * at) end
  for _, line in ipairs(chart.series) do parts[#parts + 1] = line_of(line, scale) end
  return ('<svg viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" aria-label="%s">%s</svg>'):format(escape(chart.title),
    table.concat(parts))
end

local function axes_of(chart, ticks, run)
  local scale, parts = scale_of(ticks, chart.log), {}
  for _, tick in ipairs(ticks) do
    parts[#parts + 1] = ('<span class="y" style="bottom:%.1f%%">%s</span>'):format(scale(tick), short(tick))
  end
  for _, tick in ipairs(ticks_of(run.duration)) do
    if tick <= run.duration * 1.001 then
      local share = 100 * tick / run.duration
      parts[#parts + 1] = ('<span class="x%s" style="left:%.1f%%">%s s</span>'):format(share > 97 and " last" or "", share, short(tick))
    end
  end
  return table.concat(parts)
end

local function numbers(values)
  local made = {}
  for i, value in ipairs(values) do made[i] = ("%.4g"):format(value) end
  return table.concat(made, " ")
end

local function chart_of(chart, run)
  local most = most_of(chart.series)
  local ticks = chart.log and decades_of(0.1, math.max(most, 1)) or ticks_of(most)
  local keys = {}
  for i, line in ipairs(chart.series) do
    keys[i] = ('<span class="key %s" data-values="%s">%s<b></b></span>'):format(line.class, numbers(line.values), escape(line.name))
  end
  local frame = '<figure data-duration="%s"><figcaption><strong>%s</strong> %s<span class="at"></span></figcaption>'
    .. '<div class="plot">%s%s</div></figure>\n'
  return frame:format(run.duration, escape(chart.title), table.concat(keys, " "), svg_of(chart, ticks, run), axes_of(chart, ticks, run))
end

--- What the charts show: columns of the timeline, with their factors.
local function charts_from(step)
  return {
    { "Requests a second", { "arrived", "c1", "arrivals", 1 / step }, { "served", "c2", "served", 1 / step },
      { "failed", "c3", "failed", 1 / step } },
    { "Connections", { "size + overflow", "c4", "limit" }, { "size", "c1", "size" }, { "open", "c2", "open" },
      { "leased, mean", "c3", "leased_mean" } },
    { "In line, at most", { "waiting", "c1", "waiting_max" } },
    { "Wait, ms", { "p50", "c2", "wait_p50", 1000 }, { "p99", "c3", "wait_p99", 1000 }, log = true },
  }
end

local function charts_of(result)
  local t = result.timeline
  if #t == 0 then return "" end
  local run = { duration = result.duration, troubles = troubles_of(t), marks = {} }
  for i, decision in ipairs(result.decisions) do
    if i > POINTS then break end
    run.marks[i] = math.min(1, decision.at / result.duration)
  end
  local parts = {}
  for i, is in ipairs(charts_from(t[2] and t[2].at - t[1].at or result.duration)) do
    local chart = { title = is[1], log = is.log, series = {} }
    for j = 2, #is do
      local name, class, from, factor = table.unpack(is[j])
      chart.series[j - 1] = { name = name, class = class, values = column(t, from, factor) }
    end
    parts[i] = chart_of(chart, run)
  end
  return table.concat(parts)
end

-- ---- tables ----

local function row(cells, tag)
  local parts = {}
  for i, cell in ipairs(cells) do parts[i] = ("<%s>%s</%s>"):format(tag or "td", cell, tag or "td") end
  return "<tr>" .. table.concat(parts) .. "</tr>\n"
end

local function wide(content) return '<div class="wide"><table>\n' .. content .. "</table></div>\n" end

local function milliseconds(seconds) return ("%.4g"):format(1000 * seconds) end

local HEADS = { "seed", "offered", "served", "good", "failed", "wait mean ms", "p95", "p99", "connections", "most", "opens",
  "utilization", "score" }

local function figures_table(result_row)
  local parts = { row(HEADS, "th") }
  for _, r in ipairs(result_row.runs) do
    parts[#parts + 1] = row { r.seed, r.offered, r.served, r.good, r.timeouts + r.rejected + r.errors + r.cancelled,
      milliseconds(r.wait.mean), milliseconds(r.wait.p95), milliseconds(r.wait.p99),
      ("%.1f"):format(r.connections.mean), r.connections.max, r.opens,
      ("%.2f"):format(r.utilization), r.score and ("%.1f"):format(r.score) or "-" }
  end
  return wide(table.concat(parts))
end

local function changes_of(decision)
  local names, words = {}, {}
  for name in pairs(decision.changes) do names[#names + 1] = name end
  table.sort(names)
  for i, name in ipairs(names) do
    words[i] = ("%s %s &rarr; %s"):format(escape(name), escape(decision.before[name]), escape(decision.changes[name]))
  end
  return table.concat(words, ", ")
end

local function decisions_table(result)
  local parts = { row({ "at", "what", "why" }, "th") }
  for i, d in ipairs(result.decisions) do
    if i > DECISIONS then
      parts[#parts + 1] = row { "", ("and %d more; --decisions lists them all"):format(#result.decisions - DECISIONS), "" }
      break
    end
    parts[#parts + 1] = row { ("%.2f s"):format(d.at), d.refused and "<em>refused</em>" or changes_of(d), escape(d.refused or d.reason) }
  end
  local summary = ("<details%s><summary>What the policy changed: %d times</summary>\n"):format(#result.decisions <= 30 and " open" or "",
    #result.decisions)
  return #result.decisions > 0 and summary .. wide(table.concat(parts)) .. "</details>\n" or "<p>Nothing was proposed.</p>\n"
end

local function score_text(row_of, mean)
  local scores = {}
  for i, run in ipairs(row_of.runs) do scores[i] = run.score end
  if #scores == 0 then return "" end
  local m = mean(scores)
  return m.count > 1 and (" &mdash; %.1f &plusmn; %.1f points"):format(m.mean, m.interval) or (" &mdash; %.1f points"):format(m.mean)
end

-- ---- the page ----

local STYLE = [[
:root{color-scheme:light dark;--ink:#1a1c20;--soft:#5b626d;--line:#d9dde3;--paper:#fff;
--c1:#0b6fb8;--c2:#0a8a63;--c3:#c9470d;--c4:#8a8f98;--bad:#f6d9cc}
@media(prefers-color-scheme:dark){:root{--ink:#e6e8eb;--soft:#9aa3af;--line:#353a42;--paper:#15171b;
--c1:#63b3ee;--c2:#3fcb9b;--c3:#ff8f5e;--c4:#7c8490;--bad:#4a2a1e}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:980px;margin:0 auto;padding:16px}
h1{font-size:1.4em;margin:.2em 0}h2{font-size:1.15em;margin:2em 0 .4em;border-top:1px solid var(--line);padding-top:.8em}
p{color:var(--soft);margin:.3em 0}code{font-size:.92em;overflow-wrap:anywhere}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9em}
th,td{text-align:right;padding:3px 9px;border-bottom:1px solid var(--line);white-space:nowrap}th{color:var(--soft);font-weight:500}
details td:nth-child(n+2),details th:nth-child(n+2){text-align:left;white-space:normal}
th:first-child,td:first-child{text-align:left}
figure{margin:18px 0 30px}figcaption{font-size:.9em;margin-bottom:6px}
.key{margin-left:10px;white-space:nowrap}
.key:before{content:"";display:inline-block;width:14px;height:3px;margin-right:5px;vertical-align:middle;background:currentColor}
.key b{color:var(--ink);margin-left:5px}.at{color:var(--soft);margin-left:10px}
.plot{position:relative;height:150px;margin-left:46px}
svg{position:absolute;inset:0;width:100%;height:100%;overflow:visible}
polyline,path{fill:none;vector-effect:non-scaling-stroke;stroke:currentColor;stroke-width:1.6;stroke-linejoin:round}
.grid{color:var(--line);stroke-width:1}
.mark{color:var(--c4);stroke-width:1;stroke-dasharray:2 4;opacity:.4}.trouble{fill:var(--bad);stroke:none}
.c1{color:var(--c1)}.c2{color:var(--c2)}.c3{color:var(--c3)}.c4{color:var(--c4)}
.y,.x{position:absolute;font-size:11px;line-height:1;color:var(--soft)}.y{right:100%;margin-right:7px;transform:translateY(50%)}
.x{top:100%;margin-top:6px;transform:translateX(-50%);white-space:nowrap}
.last{transform:translateX(-100%)}
.bar{display:inline-block;height:9px;background:var(--c1);margin-right:6px;vertical-align:middle}
]]

local SCRIPT = [[
for (const f of document.querySelectorAll("figure")) {
  const plot = f.querySelector(".plot"), keys = [...f.querySelectorAll(".key")], at = f.querySelector(".at");
  const values = keys.map(k => k.dataset.values.split(" "));
  plot.addEventListener("pointermove", e => {
    const box = plot.getBoundingClientRect(), share = Math.min(1, Math.max(0, (e.clientX - box.left) / box.width));
    keys.forEach((k, i) => k.querySelector("b").textContent = values[i][Math.round(share * (values[i].length - 1))]);
    at.textContent = "at " + (share * f.dataset.duration).toFixed(1) + " s";
  });
  plot.addEventListener("pointerleave", () => { keys.forEach(k => k.querySelector("b").textContent = ""); at.textContent = ""; });
}
]]

local function page(title, command, body)
  return table.concat {
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n',
    '<meta name="viewport" content="width=device-width,initial-scale=1">\n<title>',
    escape(title), "</title>\n<style>\n", STYLE, "</style></head><body>\n<h1>", escape(title), "</h1>\n",
    command and "<p><code>" .. escape(command) .. "</code></p>\n" or "", body, "<script>\n", SCRIPT, "</script>\n</body></html>\n",
  }
end

--- Runs by workload: { {name, word?, text?, runs = {result, ...}}, ... } as a page; the charts are of each workload's first run.
---@param rows table[]
---@param about { policy: string, command: string?, mean: fun(values: number[]): table } mean: sim.mean
---@return string
function report.runs(rows, about)
  local parts = { "<p>Dashed: a change of settings. Shaded: the database slow, down, refusing, or held by others.</p>\n" }
  for _, each in ipairs(rows) do
    local heading = each.word and each.name .. " " .. each.word or each.name
    parts[#parts + 1] = ("<h2>%s%s</h2>\n"):format(escape(heading), score_text(each, about.mean))
    if each.text then parts[#parts + 1] = "<p>" .. escape(each.text) .. "</p>\n" end
    parts[#parts + 1] = figures_table(each) .. charts_of(each.runs[1]) .. decisions_table(each.runs[1])
  end
  return page("pool simulate: " .. about.policy, about.command, table.concat(parts))
end

--- Score cards (sim.compare) as a page.
---@param cards table[]
---@param about { command: string? }
---@return string
function report.cards(cards, about)
  local heads = { "policy", "mean", "worst" }
  for _, workload in ipairs(cards[1].workloads) do heads[#heads + 1] = escape(workload.name) end
  local parts = { row(heads, "th") }
  for _, card in ipairs(cards) do
    local cells = { escape(card.label), ('<span class="bar" style="width:%.0fpx"></span>%.1f &plusmn; %.1f'):format(math.max(0, card.mean),
      card.mean, card.interval), ("%.1f"):format(card.worst) }
    for _, workload in ipairs(card.workloads) do cells[#cells + 1] = ("%.1f &plusmn; %.1f"):format(workload.mean, workload.interval) end
    parts[#parts + 1] = row(cells)
  end
  local note = ("<p>The same %d seeds for all; 95 %% intervals.</p>\n"):format(cards[1].workloads[1].count)
  return page("pool simulate: " .. #cards .. " policies compared", about.command, note .. wide(table.concat(parts)))
end

return report
