//! No function of the standard library, and no instruction, uses a processor for long after cancellation.

use super::super::loaded_file::LoadedFile;
use crate::lua::{CancelState, Interpreter, Messages, RuntimeOptions, Stopped};
use mlua::Lua;
use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// The limit against hanging. An idle thread may wait for long on a busy machine.
const LONG: Duration = Duration::from_secs(600);
/// `SCHED_IDLE`.
const IDLE: &str = "5";

/// Functions with calls that would take hours.
const CASES: &[(&str, &str)] = &[
    ("string.find", "('a'):rep(1e5):find(('.-'):rep(20) .. 'b')"),
    ("string.find", "('a'):rep(2^23):find(('a'):rep(2^22) .. 'b', 1, true)"),
    ("string.find", "('b'):rep(1e6):find('[' .. ('a'):rep(1e6) .. ']')"),
    ("string.find", "('a'):rep(1e6):find('(.-)%1b')"),
    ("string.find", "('('):rep(1e6):find('%b()')"),
    ("string.match", "('a'):rep(1e5):match(('.-'):rep(20) .. 'b')"),
    ("string.gmatch", "for _ in ('a'):rep(1e5):gmatch(('.-'):rep(20) .. 'b') do end"),
    ("string.gsub", "('a'):rep(1e5):gsub(('.-'):rep(20) .. 'b', '')"),
    ("string.gsub", "('a'):rep(1e5):gsub(('.-'):rep(20) .. 'b', print)"),
    ("string.gsub", "('a'):rep(1e6):gsub('', ('b'):rep(1e6))"),
    ("string.rep", "(''):rep(1 << 62)"),
    ("string.rep", "string.rep('', '4611686018427387904', '')"),
    (
        "string.format",
        "local t, s = {}, ('x'):rep(1e6) for i = 1, 1e5 do t[i] = s end \
                       string.format(('%.1s'):rep(1e5), table.unpack(t))",
    ),
    ("table.concat", "table.concat(setmetatable({}, { __index = table.concat }), '', 1, 1 << 62)"),
    ("table.concat", "table.concat(setmetatable({}, { __index = function() return '' end }), '', 1, 1 << 62)"),
    ("table.insert", "table.insert(setmetatable({}, { __len = function() return 1 << 62 end }), 1, 1)"),
    ("table.insert", "local t = {} for k = 0, 62 do t[1 << k] = 1 end table.insert(t, 1, 1)"),
    ("table.remove", "table.remove(setmetatable({}, { __len = function() return 1 << 62 end }), 1)"),
    ("table.remove", "local t = {} for k = 0, 62 do t[1 << k] = 1 end table.remove(t, 1)"),
    ("table.move", "table.move({}, 1, 1 << 62, 2)"),
    ("table.move", "table.move({}, 1, 1 << 62, 2, {})"),
    ("table.sort", "table.sort(setmetatable({}, { __len = function() return (1 << 31) - 2 end }), math.type)"),
    ("table.sort", "local t, s = {}, ('x'):rep(1e6) for i = 1, 1e5 do t[i] = s end table.sort(t)"),
    (
        "table.unpack",
        "local t = {} for i = 1, 1990 do t = setmetatable({}, { __index = t }) end \
                      while true do table.unpack(t, 1, 2e5) end",
    ),
    ("load", "load('if a then ' .. ('elseif a then '):rep(4e5) .. 'end')"),
    ("load", "load(collectgarbage)"),
    ("collectgarbage", "local t = {} for i = 1, 1e5 do t[i] = {} end while true do collectgarbage() end"),
    (
        "next",
        "local t = {} for i = 1, 2^17 do t[i .. ''] = i end for k in pairs(t) do t[k] = nil end \
              while true do next(t) end",
    ),
    ("os.date", "os.date(('%c'):rep(1e6))"),
    ("package.searchpath", "package.searchpath('a', ('/;'):rep(4e6))"),
    ("require", "package.path = ('/;'):rep(4e6) require 'a'"),
    ("warn", "local t, s = {}, ('x'):rep(1e6) for i = 1, 1e5 do t[i] = s end warn(table.unpack(t))"),
    ("print", "local t, s = {}, ('x'):rep(1e6) for i = 1, 1e5 do t[i] = s end print(table.unpack(t))"),
    ("tonumber", "local s = ('1'):rep(1e6) while true do tonumber(s) end"),
    ("utf8.len", "local s = ('x'):rep(1e6) while true do utf8.len(s) end"),
    ("string.upper", "local s = ('x'):rep(1e6) while true do s:upper() end"),
    (
        "file:write",
        "local t, s = {}, ('x'):rep(1e6) for i = 1, 1e5 do t[i] = s end \
                    io.open('/dev/null', 'w'):write(table.unpack(t))",
    ),
    ("offload.json.encode", "local t = {} for i = 1, 99 do t = { t, t } end offload.json.encode(t)"),
    ("offload.json.encode", "local s, t = ('x'):rep(1e6), {} for i = 1, 1e5 do t[i] = s end offload.json.encode(t)"),
    (
        "offload.log.info",
        "local t, s = {}, ('x'):rep(1e6) for i = 1, 1e5 do t[i] = s end \
                          offload.log.info(table.unpack(t))",
    ),
    ("offload.exec", "local t, s = {}, ('x'):rep(1e6) for i = 1, 1e5 do t[i] = s end offload.exec(t)"),
    // Instructions.
    ("", "local s = ('x'):rep(1e6) while true do local x = s < s end"),
    ("", "local s, z = ('x'):rep(1e6), ('x'):rep(1e6 - 1) .. 'y' while true do local x = s == z end"),
    ("", "local s = ('x'):rep(1e6) while true do local x = s .. 'y' end"),
    (
        "",
        "local t = {} for i = 1, 2^16 do t['a' .. i] = i end \
          for i = 1, math.huge do t[i % 2 == 0 and 'b' or 'c'] = nil t[i % 2 == 0 and 'c' or 'b'] = 1 end",
    ),
];

/// Memory bounds the cost of the other functions: a message about the type of an argument, the size of a text, or the
/// space on the stack. Waits for something outside are cancelled, and functions called from Lua are Lua.
const QUICK: &[&str] = &[
    "assert",
    "build_machine",
    "coroutine.close",
    "coroutine.create",
    "coroutine.isyieldable",
    "coroutine.resume",
    "coroutine.running",
    "coroutine.status",
    "coroutine.wrap",
    "coroutine.yield",
    "dofile",
    "error",
    "getmetatable",
    "io.close",
    "io.input",
    "io.lines",
    "io.open",
    "io.output",
    "io.popen",
    "io.read",
    "io.tmpfile",
    "io.type",
    "io.write",
    "ipairs",
    "loadfile",
    "local_machine",
    "math.abs",
    "math.atan2",
    "math.cosh",
    "math.frexp",
    "math.ldexp",
    "math.log10",
    "math.pow",
    "math.sinh",
    "math.tanh",
    "math.acos",
    "math.asin",
    "math.atan",
    "math.ceil",
    "math.cos",
    "math.deg",
    "math.exp",
    "math.floor",
    "math.fmod",
    "math.log",
    "math.max",
    "math.min",
    "math.modf",
    "math.rad",
    "math.random",
    "math.randomseed",
    "math.sin",
    "math.sqrt",
    "math.tan",
    "math.tointeger",
    "math.type",
    "math.ult",
    "offload.build_machine",
    "offload.cached",
    "offload.env",
    "offload.json.decode",
    "offload.known_hosts",
    "offload.local_machine",
    "offload.log.warn",
    "offload.read_file",
    "offload.soonest",
    "os.clock",
    "os.difftime",
    "offload.wake_on_lan",
    "os.execute",
    "os.exit",
    "os.getenv",
    "os.remove",
    "os.rename",
    "os.setlocale",
    "os.time",
    "os.tmpname",
    "pairs",
    "pcall",
    "rawequal",
    "rawget",
    "rawlen",
    "rawset",
    "select",
    "setmetatable",
    "string.byte",
    "string.char",
    "string.dump",
    "string.len",
    "string.lower",
    "string.pack",
    "string.packsize",
    "string.reverse",
    "string.sub",
    "string.unpack",
    "table.pack",
    "tostring",
    "type",
    "utf8.char",
    "utf8.codepoint",
    "utf8.codes",
    "utf8.offset",
    "xpcall",
];

fn options() -> RuntimeOptions {
    RuntimeOptions {
        file: "machines.lua".into(),
        home: None,
        cache: None,
        memory: 64 << 20,
        log_target: "offload::machine_file",
        messages: Messages::Log,
    }
}

fn interpreter() -> Interpreter<LoadedFile> {
    Interpreter::start(|cancel_state| LoadedFile::new(options(), cancel_state).map_err(|error| error.to_string()))
        .unwrap()
        .unwrap()
}

/// A function that is new in the library must be in one of the lists.
#[test]
fn every_function_is_known() {
    let lua: Lua = LoadedFile::new(options(), Arc::new(CancelState::default())).unwrap().runtime.lua;
    let names: Vec<String> = lua
        .load(
            "local names, seen = {}, { [_G] = true, [package.loaded] = true, [package.preload] = true }
             local function add(prefix, t)
               seen[t] = true
               for name, value in pairs(t) do
                 if type(value) == 'function' then names[#names + 1] = prefix .. name end
                 if type(value) == 'table' and not seen[value] then add(prefix .. name .. '.', value) end
               end
             end
             local offload = require 'offload'
             seen[offload] = true
             add('', _G) add('offload.', offload)
             return names",
        )
        .eval()
        .unwrap();
    let found: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    let cases = CASES.iter().map(|(name, _)| *name).filter(|name| !name.is_empty() && !name.contains(':'));
    let listed: BTreeSet<&str> = cases.chain(QUICK.iter().copied()).collect();
    let differing: Vec<_> = found.symmetric_difference(&listed).collect();
    assert!(differing.is_empty(), "{differing:?}");
}

/// Returns the state of a thread of this process, its processor time, and its policy; `None` if it has ended.
fn thread_state(thread: rustix::process::Pid) -> Option<(String, [String; 2], String)> {
    let stat = fs::read_to_string(format!("/proc/self/task/{thread}/stat", thread = thread.as_raw_pid())).ok()?;
    // The fields from the third on follow the name, which ends with a bracket.
    let fields: Vec<String> = stat.rsplit_once(") ")?.1.split(' ').map(str::to_owned).collect();
    let field = |number: usize| fields.get(number - 3).cloned().unwrap_or_default();
    Some((field(3), [field(14), field(15)], field(41)))
}

#[test]
fn a_cancelled_call_ends() {
    for (name, code) in CASES {
        let interpreter = interpreter();
        let code = format!("local offload = require 'offload'; {code}");
        let start = Instant::now();
        let mut budget = Duration::from_millis(300);
        let result = interpreter.run(&mut budget, move |file| {
            file.runtime.limited(|lua| lua.load(code).exec()).map_err(|error| error.to_string())
        });
        let given_up = start.elapsed();
        let mut before = None;
        while let Some((state, time, _)) = thread_state(interpreter.thread()) {
            if state == "S" && before.as_ref() == Some(&time) {
                break;
            }
            before = Some(time);
            assert!(start.elapsed() < LONG, "{name}: goes on");
            thread::sleep(Duration::from_millis(20));
        }
        let after = start.elapsed().saturating_sub(given_up);
        let result = result.map(|result| result.map_err(|error| error.lines().next().unwrap_or_default().to_owned()));
        println!("{name}: at rest {after:?} after {result:?}");
    }
}

/// No function of ours and no hook interrupts this case: a chain of a million calls in a single instruction.
#[test]
fn a_call_that_cannot_be_ended_is_idle() {
    let interpreter = interpreter();
    let mut budget = Duration::from_millis(100);
    let result = interpreter.run(&mut budget, move |file| {
        file.runtime
            .limited(|lua| lua.load("local t = setmetatable({}, {}) getmetatable(t).__call = t t()").exec())
            .is_ok()
    });
    assert_eq!(result, Err(Stopped::Late(None)));
    let (_, _, policy) = thread_state(interpreter.thread()).unwrap();
    assert_eq!(policy, IDLE);
}

/// Our functions return the same as those of Lua, for tables of both kinds and of any size.
#[test]
fn functions_of_tables_are_those_of_lua() {
    const COMPARE: &str = r##"
        local function numbers(n)
          local t = {}
          for i = 1, n do t[i] = i * 7919 % 1009 end
          return t
        end
        local function proxy(t)
          return setmetatable({}, {
            __index = function(_, k) return t[k] end,
            __newindex = function(_, k, v) t[k] = v end,
            __len = function() return #t end,
          })
        end
        local function shown(t)
          local parts = {}
          for i = 1, #t do parts[i] = tostring(t[i]) end
          return #t .. ":" .. table.concat(parts, " ")
        end
        local all = {}
        local function note(t, ...)
          local results = table.pack(...)
          for i = 1, results.n do
            local text = type(results[i]) == "table" and "table" or tostring(results[i])
            results[i] = text:gsub("^%[?%w+%]?:%d+: ", ""):gsub("to '%w+%.", "to '"):gsub("got no value", "got nil")
          end
          all[#all + 1] = table.concat(results, ",", 1, results.n) .. ";" .. shown(t)
        end
        for _, n in ipairs { 0, 1, 2, 5, 2500 } do
          for _, wrap in ipairs { function(t) return t end, proxy } do
            local function each(f, ...)
              local t = numbers(n)
              note(t, pcall(f, wrap(t), ...))
            end
            for _, at in ipairs { 1, 2, 3, n - 1, n, n + 1, n + 2, 0, -1, "1", 1.0, 1.5, {} } do
              each(table.insert, at, "new")
              each(table.remove, at)
            end
            each(table.insert, "new")
            each(table.insert)
            each(table.insert, 1, 2, 3)
            each(table.remove)
            each(table.sort)
            each(table.sort, function(a, b) return a > b end)
            each(table.sort, 1)
            each(table.concat)
            each(table.concat, ", ")
            each(table.concat, ", ", 2)
            each(table.concat, ", ", 2, n - 1)
            each(table.concat, ", ", 2, n + 1)
            each(function(t) return select("#", table.unpack(t)), table.unpack(t, n - 2, n + 1) end)
            each(function(t) return table.unpack(t, 1, 1 << 40) end)
            for _, move in ipairs { { 1, n, 2 }, { 2, n, 1 }, { 1, n, 1 }, { n, 1, 1 }, { -5, n, 7 }, { 1, "x", 2 } } do
              each(table.move, table.unpack(move))
              local target = {}
              each(function(t) return table.move(t, move[1], move[2], move[3], target) == target end)
              note(target)
            end
            each(table.move, 1, math.maxinteger, 2)
            each(table.move, math.mininteger, 0, 2)
            each(table.move, 1, 3000, math.maxinteger - 10)
          end
        end
        local mixed = { "b", "a", 1 }
        note(mixed, (pcall(table.sort, mixed)))
        for _, arguments in ipairs { { "ab", 3 }, { "ab", 3, "-" }, { "", 5, "-" }, { "", 5 }, { "ab", 0 }, { "ab", -1 }, { 12, 2 },
                                     { "ab", "2" }, { "ab", 2.0 }, { "", "x" }, { "", {} }, { "ab" }, { "" }, { {}, 1 } } do
          note({}, pcall(string.rep, table.unpack(arguments)))
        end
        note({}, pcall(string.format, "%5.1f %q %s %d", 1.25, "a\nb", {} and "x", 3))
        note({}, pcall(string.format, "%d", "x"))
        for _, program in ipairs { "return 1 + 1", "return ...", "", "(" , "return " .. (" "):rep(10000) .. "7" } do
          note({}, pcall(function() return assert(load(program))(3) end))
          note({}, pcall(function() return assert(load(program, "=name", "t", {}))(3) end))
        end
        local parts = { "return ", "5", "5" }
        note({}, load(function() return table.remove(parts, 1) end)())
        note({}, pcall(load, nil))
        note({}, os.date("%Y", 0), os.date("!%H", 3600), #os.date() > 5)
        note({}, pcall(os.date, "%Ez", 0))
        note({}, type(collectgarbage("count")), collectgarbage())
        return all
    "##;
    let own = LoadedFile::new(options(), Arc::new(CancelState::default())).unwrap().runtime.lua;
    let [own, original] =
        [own, Lua::new()].map(|lua| lua.load(COMPARE).set_name("=compare").eval::<Vec<String>>().unwrap());
    assert_eq!(own.len(), original.len());
    for (own, original) in own.iter().zip(&original) {
        assert_eq!(own, original);
    }
}
