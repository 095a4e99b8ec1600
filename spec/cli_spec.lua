local cli = require "pool.cli"

describe("the command", function()
  it("reads where to listen", function()
    assert.same({ "127.0.0.1", 8080 }, { cli.parse_listen "127.0.0.1:8080" })
    assert.same({ "localhost", 0 }, { cli.parse_listen "localhost:0" })
    assert.same({ "::1", 80 }, { cli.parse_listen "[::1]:80" })
    assert.same({ "", 80 }, { cli.parse_listen ":80" })
    for _, text in ipairs { "8080", "a:", "a:b", "a:65536", "::1:80", "[::1]", "a:-1", "a:1x" } do
      local host, message = cli.parse_listen(text)
      assert.is_nil(host)
      assert.truthy(message:find(text, 1, true))
    end
  end)

  it("prints where it listens as a URL", function()
    assert.equal("http://127.0.0.1:8080", cli.url("127.0.0.1", 8080))
    assert.equal("http://[::1]:80", cli.url("::1", 80))
    assert.equal("http://0.0.0.0:80", cli.url("", 80))
  end)
end)
