local flags = require "pool.flags"

local KNOWN = {
  listen = { value = true }, size = { value = true }, ["pre-ping"] = {}, dev = {}, help = {}, watch = { value = true, later = true },
  ["policy-time"] = { value = true, later = "the tuning policies" },
}

describe("flags", function()
  it("are read with a value after a space or an = sign, on and off, with - or _", function()
    assert.same({ size = "20", listen = "a:1", ["pre-ping"] = "false", dev = "true" },
      (flags.parse({ "--size", "20", "--listen=a:1", "--no-pre_ping", "--dev" }, KNOWN)))
    assert.same({ ["pre-ping"] = "off", size = "" }, (flags.parse({ "--pre-ping=off", "--size=" }, KNOWN)))
    assert.same({ size = "-1", help = "true" }, (flags.parse({ "--size", "-1", "-h" }, KNOWN)))
  end)

  it("leave the rest in order, all of it after --", function()
    local values, rest = flags.parse({ "a", "--dev", "b", "-", "--", "--size" }, KNOWN)
    assert.same({ dev = "true" }, values)
    assert.same({ "a", "b", "-", "--size" }, rest)
  end)

  it("are refused when unknown, with the nearest name, when not yet there, and without their value", function()
    local function refused(...) return (select(2, flags.parse({ ... }, KNOWN))) end
    assert.equal("unknown flag --sise; did you mean --size?", refused("--sise", "1"))
    assert.equal("unknown flag --siez; did you mean --size?", refused("--siez", "1"))
    assert.equal("unknown flag --SIZE; did you mean --size?", refused("--SIZE", "1"))
    assert.equal("unknown flag --zebra", refused("--zebra"))
    assert.equal("unknown flag -x", refused("-x"))
    assert.equal("--no-size: --size is not on or off, it takes a value", refused("--no-size"))
    assert.equal("--watch is not there yet", refused("--watch"))
    assert.equal("--watch is not there yet", refused("--no-watch"))
    assert.equal("--policy-time is not there yet: it comes with the tuning policies", refused("--policy_time=1"))
    assert.equal("--size needs a value", refused("--size"))
    assert.equal("--no-dev takes no value", refused("--no-dev=1"))
  end)
end)
