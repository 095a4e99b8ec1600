-- The page of pool simulate --html: whole, self-contained, escaped, honest about peaks.

local process = require "support.process"
local report = require "pool.report"
local sim = require "pool.sim"

local VOID = { meta = true, ["!doctype"] = true, rect = true, path = true, polyline = true }

-- Every element that begins ends, in order; scripts and styles are passed over. Raises where one does not.
local function check_nesting(html)
  local text = html:gsub("<style>.-</style>", ""):gsub("<script>.-</script>", "")
  local open = {}
  for close, name, rest in text:gmatch "<(/?)([%a!][%w]*)([^<>]*)>" do
    name = name:lower()
    if close == "/" then
      assert(table.remove(open) == name, "</" .. name .. "> ends nothing")
    elseif not VOID[name] and rest:sub(-1) ~= "/" then
      open[#open + 1] = name
    end
  end
  assert(#open == 0, "not ended: " .. table.concat(open, " "))
  assert(not text:gsub("<[/%a!][^<>]*>", ""):find "[<>]", "a stray < or >")
end

local function count(text, pattern) return select(2, text:gsub(pattern, "")) end

local function ran(options)
  options.workload, options.seed = options.workload or "W6", 1
  return assert(sim.run(options))
end

local function page_of(result, more)
  local row = { name = "W6", word = "flash", text = "a text", runs = { result } }
  for name, value in pairs(more or {}) do row[name] = value end
  return report.runs({ row }, { policy = "default", command = "pool simulate default", mean = sim.mean })
end

describe("the report", function()
  it("is one whole page that loads nothing, with four charts and the decisions", function()
    local result = ran { policy = "default", duration = 150 }
    local html = page_of(result)
    check_nesting(html)
    assert.equal(4, count(html, "<svg "))
    assert.equal(10, count(html, "<polyline "))
    assert.equal(1, count(html, "<h2>W6 flash &mdash; [%d.]+ points</h2>"))
    for _, loading in ipairs { "src=", "href=", "url%(", "@import", "http" } do assert.equal(0, count(html, loading), loading) end
    assert.equal(#result.decisions, count(html, "<tr><td>[%d.]+ s</td>"))
    assert.truthy(html:find("size 10 &rarr; ", 1, true))
    assert.truthy(html:find("callers leave after 1 s", 1, true))
  end)

  it("is the same, byte for byte, for the same run", function()
    assert.equal(page_of(ran { policy = "default", duration = 60 }), page_of(ran { policy = "default", duration = 60 }))
  end)

  it("escapes every name and reason", function()
    local evil = [[<script>alert("x")</script>&'"]]
    local result = ran { policy = function(s) return { size = s.settings.size + 1 }, evil end, duration = 20, score = false }
    local html = report.runs({ { name = evil, word = evil, text = evil, runs = { result } } },
      { policy = evil, command = evil, mean = sim.mean })
    check_nesting(html)
    assert.equal(1, count(html, "<script>"))
    assert.equal(0, count(html, "alert%(\""))
    local cards = report.cards({ { label = evil, mean = 1, interval = 0, worst = 1,
      workloads = { { name = evil, mean = 1, interval = 0, count = 3 } } } }, { command = evil })
    check_nesting(cards)
    assert.equal(1, count(cards, "<script>"))
  end)

  it("keeps the peaks of a long run in at most 600 points a line", function()
    local result = ran { workload = { arrival = { kind = "batch", batch = 77, first = 4321.5 },
      service = { kind = "deterministic", mean = 0.01 } }, duration = 7200 }
    local html = page_of(result)
    for points in html:gmatch 'points="([^"]*)"' do
      local n = count(points, ",")
      assert.is_true(n <= 600 and n > 500, n)
    end
    assert.truthy(html:match('data%-values="([^"]*)">arrived'):find("77", 1, true))
  end)

  it("says so when nothing was proposed, and does without a timeline", function()
    local html = page_of(ran { duration = 10, timeline = 0 })
    check_nesting(html)
    assert.equal(0, count(html, "<svg "))
    assert.truthy(html:find("Nothing was proposed", 1, true))
  end)

  it("shades the time of trouble", function()
    local html = page_of(ran { workload = "W10", duration = 150 })
    assert.equal(4, count(html, 'class="trouble"'))
    assert.equal(0, count(page_of(ran { workload = "W2", duration = 20 }), 'class="trouble"'))
  end)

  local COMMAND = os.getenv "POOL_SPEC_COMMAND"
  if not COMMAND then return end

  it("is written by pool simulate --html, for runs and for comparisons; a file that cannot be written is an error", function()
    local path = os.tmpname()
    local quoted = process.quote(path)
    local text, code = process.run(("%s simulate default --workload W2,W6 --duration 20 --html %s"):format(COMMAND, quoted))
    assert.equal(0, code)
    assert.matches("^workload", text)
    local file = assert(io.open(path))
    local html = file:read "a"
    file:close()
    check_nesting(html)
    assert.equal(8, count(html, "<svg "))
    assert.truthy(html:find("pool simulate default --workload W2,W6 --duration 20", 1, true))
    code = select(2, process.run(("%s simulate --compare default,fixed --seeds 2 --duration 20 --html %s"):format(COMMAND, quoted)))
    assert.equal(0, code)
    file = assert(io.open(path))
    html = file:read "a"
    file:close()
    check_nesting(html)
    assert.equal(2, count(html, '<span class="bar"'))
    os.remove(path)
    text, code = process.run(COMMAND .. " simulate --duration 1 --html /nowhere/at/all.html 2>&1")
    assert.equal(1, code)
    assert.matches("%-%-html: /nowhere/at/all.html: No such file", text)
  end)
end)
