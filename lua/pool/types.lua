---@meta
error "pool.types is for editors: nothing runs it"
--- What `require "pool"` gives, for editors: everything public that is written in C or put together at run time. What is plain Lua
--- with annotations of its own (pool.App, pool.Request, pool.Response, in app.lua, request.lua, response.lua) is not repeated.
--- spec/types_spec.lua keeps this complete.
---
--- Times are seconds. Misuse raises at the caller's line; what the world does wrong returns nil and a pool.Error.

-- ---- errors, rows ------------------------------------------------------------------------------------------------------------

---@alias pool.Error.Kind
---| "timeout"      # no connection in time
---| "overloaded"   # the line is full
---| "connect"      # no connection could be opened; the last failure with its SQLSTATE
---| "lost"         # the connection died
---| "query"        # the server's own error, or the world's data
---| "deadline"     # the task's deadline, or statement_timeout
---| "cancelled"    # the task, or by conn:cancel()
---| "closed"       # the pool is closed
---| "settings"     # configure was refused
---| "policy"       # tune was refused
---| "json"         # malformed JSON

--- tostring(err) is "kind: message".
---@class pool.Error
---@field kind pool.Error.Kind
---@field message string
---@field sqlstate? string five characters, as PostgreSQL has them
---@field detail? string
---@field hint? string
---@field constraint? string
---@field schema? string
---@field table? string
---@field column? string
---@field position? integer in the statement, from 1, in characters
---@field waited? number seconds in line
---@field retryable? true only when the statement cannot have run
---@field deadlock? true every holder of a connection waits in the same line
---@field traceback? string of a task that failed

--- A plain table by column name. As JSON it shows every column, in select order, NULL as null.
---@class pool.Row
---@field [string] any integer, number, boolean, string, a decoded json value, an array; absent (or pool.null) for NULL
---@field [integer] any every cell by position, when two columns share a name

--- A plain array; the fields are reached through its metatable, so that they are neither iterated nor encoded.
---@class pool.Rows
---@field [integer] pool.Row
---@field affected integer rows changed, or rows given
---@field columns string[]
---@field command string "SELECT", "INSERT", "ROLLBACK", ...

--- Whatever can be `$1`; nil is NULL. A plain table is refused: say which with pool.array or pool.jsonb.
---@alias pool.Parameter string | number | boolean | lightuserdata | pool.Array | pool.Bytes | pool.Jsonb | nil

---@class pool.Array made by pool.array: an array as a parameter, `[]` as JSON
---@class pool.Bytes made by pool.bytes
---@class pool.Jsonb made by pool.jsonb

-- ---- settings and figures ----------------------------------------------------------------------------------------------------

--- What is left out comes from the environment (DB_POOL_ and the name in capitals; DATABASE_URL, DB_MAX_OVERFLOW, DB_CONNECT_TIMEOUT,
--- DB_STATEMENT_TIMEOUT, DB_ECHO), then from `.env` in the working directory, then from the default.
---@class pool.Settings
---@field size? integer connections kept, default 10; 0: NullPool, closed on return
---@field max_overflow? integer connections beyond size under load, default 20; 0: none
---@field size_limit? integer places for connections made at creation, default 1000; size + max_overflow never exceeds it; not live
---@field timeout? number seconds to get a connection, all included, default 30; 0: only an idle connection will do
---@field recycle? number seconds after which a connection is replaced, default 3600; 0: never
---@field recycle_jitter? number the share of recycle by which lifetimes differ, 0..1, default 0.25
---@field pre_ping? boolean check a connection that has been idle before it is lent, default true
---@field pre_ping_after? number seconds idle after which it is checked, default 1; 0: before every lease
---@field pre_ping_timeout? number seconds after which a check has failed, default 5; 0: none
---@field min_idle? integer connections opened ahead of demand, default 0
---@field idle_timeout? number seconds that an idle overflow connection lingers, default 30; 0: none
---@field shrink_after? number seconds after which idle connections within size are closed, down to min_idle, default 600; 0: never
---@field max_waiting? integer callers in line beyond the opens that room allows, default 10000; one more is overloaded
---@field max_opening? integer connections being opened at a time, default 4
---@field backoff_min? number seconds, the first pause after a failed open, default 0.05
---@field backoff_max? number seconds, the longest pause after failed opens, default 0.5
---@field max_waiting_per_key? integer callers of one key in line, default 0: no bound
---@field queue? "fifo" | "lifo" | "codel" the order in which those in line are served, default fifo
---@field queue_target? number seconds: the wait that codel accepts, default 0.05
---@field queue_interval? number seconds that lifo lets the line stand, and codel the wait stay above queue_target, default 1
---@field database_url? string postgresql://user:password@host:port/database or sqlite:///file.db, default sqlite:///pool.db; not live
---@field connect_timeout? number seconds to open a connection, names and every address included, default 10; 0: none
---@field reset? "rollback" | "discard" | "none" what makes a returned connection clean, default rollback
---@field statement_timeout? number seconds after which a statement is cancelled, default 0: never
---@field statement_cache? integer prepared statements kept by each connection, default 256; 0: off; not live
---@field pooler? "auto" | "none" | "transaction" whether a transaction pooler stands before the server, default auto; not live
---@field nested? "allow" | "error" a second connection acquired by a task that holds one, default allow
---@field null? "absent" | "sentinel" NULL in a row: the key is absent (default), or pool.null; not live
---@field leak_after? number seconds after which a lease is reported: where it was acquired, where its task stands, default 60; 0: never
---@field policy_time? number seconds of processor time of one call of a tuning policy, default 0.02
---@field policy_memory? integer bytes that a tuning policy's state may take, default 16777216
---@field policy_instructions? integer Lua instructions of one call of a tuning policy, default 10000000
---@field record_limit? integer bytes that a recording may take on the disk
---@field probation? integer ticks in which a new version of a policy is watched, default 10; 0: none
---@field echo? boolean log every statement, never its parameters, default false

--- One setting as pool.settings() lists it.
---@class pool.Setting
---@field name string
---@field env string the environment variable
---@field type "count" | "duration" | "ratio" | "flag" | "text" | "choice"
---@field unit? "seconds"
---@field default any
---@field min? number
---@field max? number
---@field choices? string[]
---@field zero? string what 0 means
---@field live boolean whether db:configure can change it
---@field secret boolean whether its text may hold a password
---@field room string
---@field help string

---@class pool.Histogram seconds
---@field count integer
---@field mean number
---@field p50 number
---@field p95 number
---@field p99 number
---@field max number

---@class pool.Stats
---@field size integer the setting
---@field max_overflow integer the setting
---@field limit integer the most connections there can be now
---@field total integer connections, in whatever state
---@field idle integer
---@field leased integer
---@field waiting integer callers in line
---@field opening integer
---@field checking integer
---@field resetting integer
---@field closing integer
---@field unmet integer callers in line that more room would serve
---@field queue_age number seconds that the first in line has waited
---@field paused boolean
---@field draining boolean
---@field failing boolean the last open failed, and none has succeeded since
---@field last_alive? number seconds since the server answered something
---@field arrivals integer callers that asked for a connection
---@field grants integer
---@field releases integer
---@field timeouts integer
---@field rejected integer answered with overloaded
---@field shed integer those of them that codel sent out of the line
---@field cancelled integer gave up in line
---@field errors integer answered with connect or closed
---@field opens integer
---@field open_failures integer
---@field closes integer
---@field checks integer
---@field check_failures integer
---@field resets integer
---@field recycled integer closed for their age
---@field lost integer found dead
---@field elided integer opens called off before they began
---@field queries integer
---@field query_errors integer
---@field refused integer callers that the tuning policy did not let in; they did not arrive
---@field leaks integer leases that the collector or the end of a task took back
---@field utilization number mean leased / (size + max_overflow)
---@field leased_seconds number the integral of leased over time
---@field wait pool.Histogram of grants, zeros included
---@field hold pool.Histogram
---@field open_time pool.Histogram
---@field query pool.Histogram how long statements took, their line left out
---@field settings pool.Settings as they are now, the URL without its password

---@class pool.Lease
---@field id integer the connection's
---@field pid integer the server's process, 0 where there is none
---@field task? integer the id of the task that holds it
---@field since number pool.now() when it began
---@field held number seconds
---@field where? string "app.lua:12"
---@field sql? string the statement under way

-- ---- pools -------------------------------------------------------------------------------------------------------------------

---@class pool.Pool
---@field driver "postgres" | "sqlite"
local Pool = {}

--- This pool with defaults of its own for what it asks: a Pool wherever one is wanted. Callers of one key take turns with those of
--- other keys; the priority orders those of one key.
---@param options { key?: string | integer, priority?: integer, timeout?: number } priority 0 to 9, 9 first, default 5; seconds
---@return pool.Pool view
function Pool:with(options) end

--- Tunes the pool by a policy: a file's path, which is watched, a built-in policy's name, or { policy = either, ...parameters }
--- (lua/pool/tuner.lua).
---@param policy string | table
---@param options? { limits?: table<string, number[]> } name = {low, high}; default size 1..64, max_overflow 0..64
---@return pool.Tuner? tuner
---@return pool.Error? err kind policy: the pool is as it was
function Pool:tune(policy, options) end

--- What this pool's figures say is wrong, since it was made: symptom, evidence, a change to try; the gravest first, empty when nothing is.
---@return pool.Advice[]
function Pool:advise() end

--- Records what this pool's requests for connections meet, to a file that is bounded (record_limit), until it is closed: when they came,
--- how long they waited and held, how they ended, a key's hash, a priority; no SQL, no parameters (lua/pool/recording.lua).
---@param path string a file to be made; a recording that is there becomes path.1
---@return pool.Recording? recording
---@return pool.Error? err kind settings
function Pool:record(path) end

--- The tuner of this pool.
---@return pool.Tuner?
function Pool:tuner() end

--- One statement on any connection, which is back in the pool when this returns.
---@param sql string with $1, $2, ... on every driver
---@param ... pool.Parameter
---@return pool.Rows? rows
---@return pool.Error? err
function Pool:query(sql, ...) end

--- The rows as JSON text, straight from the driver's result.
---@param sql string
---@param ... pool.Parameter
---@return string? json
---@return pool.Error? err
function Pool:json(sql, ...) end

--- Several statements, no parameters: migrations. All of them or nothing, unless the script itself says begin, commit or rollback. On
--- SQLite VACUUM and pragmas such as foreign_keys work outside transactions only: there the script is committed before and after one.
---@param script string
---@return true? ok
---@return pool.Error? err
function Pool:exec(script) end

--- `for row in db:rows(sql, ...) do`: streams in constant memory; leaving the loop stops the statement. Raises what goes wrong.
---@param sql string
---@param ... pool.Parameter
---@return fun(): pool.Row?
function Pool:rows(sql, ...) end

--- A connection of one's own: `local c <close> = assert(db:acquire())`.
---@param options? { timeout?: number, key?: string, priority?: integer }
---@return pool.Connection? connection
---@return pool.Error? err
function Pool:acquire(options) end

--- Runs fn(tx) in a transaction: commits unless fn raises, or returns nil and an error. Inside a transaction of the same task it is a
--- savepoint. With retries, 40001 and 40P01 run fn again, with a pause. With read_only, a write is refused (25006) on both databases.
---@param fn fun(tx: pool.Connection): ...
---@param options? { isolation?: string, read_only?: boolean, deferrable?: boolean, retries?: integer }
---@return any ... fn's results, true if none; or nil, err
function Pool:transaction(fn, options) end

--- A unit of work that begins at its first statement: `local s <close> = db:session()`.
---@return pool.Session
function Pool:session() end

--- Changes settings while the pool runs: all of them, or none.
---@param settings pool.Settings
---@return pool.Settings? settings as they are now
---@return pool.Error? err kind settings
function Pool:configure(settings) end

---@return pool.Stats
function Pool:stats() end

--- SQLAlchemy's line: "Pool size: 10  Connections in pool: 8 Current Overflow: 0 Current Checked out connections: 2".
---@return string
function Pool:status() end

--- Who holds what, the oldest first.
---@return pool.Lease[]
function Pool:leases() end

--- Lends nothing until resume: callers wait in line.
function Pool:pause() end

function Pool:resume() end

--- Every connection of now is replaced before it is lent again; leases go on to their end.
function Pool:invalidate() end

--- Lends nothing more, waits up to `grace` for what is lent, then cuts it; returns when the server has seen the last one go. Idempotent.
---@param grace? number seconds, default 5; 0 cuts at once
---@return true
function Pool:close(grace) end

--- Hears what the pool does: connect(conn) sets up a new connection, and may query; acquire(conn); release(conn, outcome);
--- close(id, reason); timeout(err); settings(new, old, by). All but connect may not wait.
---@param event "connect" | "acquire" | "release" | "close" | "timeout" | "settings"
---@param fn function
---@return fun() remove takes it off again
function Pool:on(event, fn) end

--- Does the database answer? An answer of the last second counts; never takes a connection from the line.
---@param seconds number that it may take
---@return true? alive
---@return pool.Error? err
function Pool:probe(seconds) end

-- ---- connections and sessions ------------------------------------------------------------------------------------------------

--- A lease. It belongs to the task that acquired it, and goes back when that ends, if not before. Any use after its release raises.
---@class pool.Connection
---@field id integer
---@field pid integer the server's process, 0 where there is none
---@field in_transaction boolean
---@field age number seconds since it was opened
---@field uses integer times it was lent
---@field encrypted boolean whether it is under TLS
---@field db pool.Pool
local Connection = {}

---@param sql string
---@param ... pool.Parameter
---@return pool.Rows? rows
---@return pool.Error? err
function Connection:query(sql, ...) end

---@param sql string
---@param ... pool.Parameter
---@return string? json
---@return pool.Error? err
function Connection:json(sql, ...) end

---@param script string
---@return true? ok
---@return pool.Error? err
function Connection:exec(script) end

--- As db:rows. In a PostgreSQL transaction, which a cancel would abort, the rest of a loop that is left is read and thrown away, for five
--- seconds at most; then it is cancelled all the same. Of an error in that rest the next statement knows: 25P02.
---@param sql string
---@param ... pool.Parameter
---@return fun(): pool.Row?
function Connection:rows(sql, ...) end

---@param options? { isolation?: string, read_only?: boolean, deferrable?: boolean }
---@return true? ok
---@return pool.Error? err
function Connection:begin(options) end

--- A COMMIT that the server answers with ROLLBACK is an error.
---@return true? ok
---@return pool.Error? err
function Connection:commit() end

---@return true? ok
---@return pool.Error? err
function Connection:rollback() end

--- As db:transaction, on this connection; a savepoint, which takes no options, when it is in a transaction already.
---@param fn fun(tx: pool.Connection): ...
---@param options? { isolation?: string, read_only?: boolean, deferrable?: boolean }
---@return any ... fn's results, true if none; or nil, err
function Connection:transaction(fn, options) end

--- Asks the server to stop the statement under way, which then fails with kind cancelled. May be called by another task.
---@return true? ok
---@return pool.Error? err
function Connection:cancel() end

--- The lease outlives the task: whoever has the Connection releases it.
---@return pool.Connection self
function Connection:detach() end

--- It is closed when it goes back, instead of being lent again.
---@return true? ok
---@return pool.Error? err
function Connection:invalidate() end

--- Gives it back, whatever state it is in: the engine makes it clean. Idempotent; `<close>` does the same.
function Connection:release() end

--- One unit of work. It holds a connection from its first statement to commit or rollback; the next statement begins anew.
---@class pool.Session
---@field db pool.Pool
---@field in_transaction boolean whether it holds a connection
---@field closed boolean
local Session = {}

---@param sql string
---@param ... pool.Parameter
---@return pool.Rows? rows
---@return pool.Error? err
function Session:query(sql, ...) end

---@param sql string
---@param ... pool.Parameter
---@return string? json
---@return pool.Error? err
function Session:json(sql, ...) end

---@param script string
---@return true? ok
---@return pool.Error? err
function Session:exec(script) end

--- As c:rows.
---@param sql string
---@param ... pool.Parameter
---@return fun(): pool.Row?
function Session:rows(sql, ...) end

--- A savepoint.
---@param fn fun(tx: pool.Connection): ...
---@return any ... fn's results, true if none; or nil, err
function Session:transaction(fn) end

---@return true? ok
---@return pool.Error? err
function Session:commit() end

---@return true? ok
---@return pool.Error? err
function Session:rollback() end

--- Rolls back what was not committed; any later use raises. `<close>` does the same.
function Session:close() end

-- ---- tasks -------------------------------------------------------------------------------------------------------------------

---@class pool.Task
---@field id integer
---@field status "ready" | "waiting" | "done" | "failed" | "cancelled"
local Task = {}

--- Waits for its end. The error is the value that it raised; a pool.Error of kind cancelled when it was cancelled, of kind deadline when
--- the time-out passed first.
---@param timeout? number seconds
---@return any ... its results; or nil, err
function Task:join(timeout) end

--- Ends it where it waits; pcall does not catch that. What it holds is released.
function Task:cancel() end

-- ---- the module --------------------------------------------------------------------------------------------------------------

---@class pool
---@field version string
---@field null lightuserdata NULL inside arrays and JSON; equal to cjson.null
local pool = {}

--- A pool of connections to one database. Never blocks, opens nothing yet. Raises for settings that are wrong.
---@param settings? pool.Settings | string settings by name, or a database URL
---@return pool.Pool
function pool.new(settings) end

--- Runs fn as a task, and the loop; returns when the tasks spawned meanwhile have ended too. When fn raises they are cancelled, and it
--- raises on.
---@param fn fun(...): ...
---@param ... any for fn
---@return any ... fn's results
function pool.run(fn, ...) end

--- A task that starts at the next turn.
---@param fn fun(...): ...
---@param ... any for fn
---@return pool.Task
function pool.spawn(fn, ...) end

--- Runs functions together. The first failure cancels the others. Under a deadline the error is of that kind where one of them ended only
--- after it.
---@param functions (fun(): any)[]
---@return any[]? results each one's first, nil as pool.null
---@return any err
function pool.all(functions) end

--- Runs fn(...) under a deadline: the wait under way when it passes, and each later one, returns nil, err of kind deadline.
---@param seconds number
---@param fn fun(...): ...
---@param ... any for fn
---@return any ... fn's results
function pool.deadline(seconds, fn, ...) end

--- sleep(0) gives way until every ready task has run.
---@param seconds number
---@return true? ok
---@return pool.Error? err kind deadline
function pool.sleep(seconds) end

--- Monotonic seconds.
---@return number
function pool.now() end

---@class pool.json
pool.json = {}

--- Rows with every column in select order; plain tables with sorted keys; raises for what JSON cannot hold.
---@param value any
---@return string
function pool.json.encode(value) end

---@param text string
---@return any value null is pool.null
---@return pool.Error? err kind json
function pool.json.decode(text) end

--- An array as a parameter; `[]` as JSON even when it is empty.
---@param list any[]
---@return pool.Array
function pool.array(list) end

--- A string as bytea or BLOB.
---@param text string
---@return pool.Bytes
function pool.bytes(text) end

--- Any value as json or jsonb.
---@param value any
---@return pool.Jsonb
function pool.jsonb(value) end

--- A quoted identifier, for the rare dynamic name of a table. There is no literal formatter: values are parameters.
---@param name string
---@return string
function pool.identifier(name) end

--- Every setting there is, as data.
---@return pool.Setting[]
function pool.settings() end

--- A first size from stated requirements (lua/pool/sizing.lua): settings, and the reasons as sentences. Of one instance:
--- requests_per_second and query_seconds, or concurrent_requests; acceptable_wait, database_limit, instances, database_cores, deadline,
--- idle_limit, driver where they are known.
---@param requirements table<string, number | string>
---@return pool.Settings settings
---@return string[] explanation
function pool.size_for(requirements) end

--- Where lines for the log go; replace it to send them elsewhere. It may not wait.
---@param level "debug" | "info" | "warn" | "error"
---@param message string
---@param fields table<string, any>
function pool.log(level, message, fields) end
