//! Comparison of our functions with those of Lua.

use super::super::super::cancellation::CancelState;
use super::super::super::context::{Messages, RuntimeOptions};
use super::super::super::runtime::Runtime;
use mlua::{Function, Lua, LuaString, Variadic};
use proptest::prelude::*;
use std::sync::Arc;

/// Calls a function of the library, and shows the result. The arguments `@table` and `@function` become a table and a
/// function.
const SHOW: &str = r##"
    local replacements = {
      ["@table"] = { a = "1", b = false, ab = 7, [""] = "-", [1] = "one", [2] = {} },
      ["@function"] = function(...)
        if select("#", ...) == 2 then return nil end
        if (...) == "b" then return {} end
        return select("#", ...) .. "<" .. tostring((...)) .. ">"
      end,
    }
    local function shown(...)
      local parts = table.pack(...)
      for index = 1, parts.n do
        local text = tostring(parts[index]):gsub("^%[?%w+%]?:%d+: ", "")
        parts[index] = math.type(parts[index]) or type(parts[index]) .. ":" .. text
      end
      return table.concat(parts, "|", 1, parts.n)
    end
    return function(name, ...)
      local arguments = table.pack(...)
      for index = 1, arguments.n do arguments[index] = replacements[arguments[index]] or arguments[index] end
      if name ~= "gmatch" then return shown(pcall(string[name], table.unpack(arguments, 1, arguments.n))) end
      local all = {}
      local result = shown(pcall(function()
        for one, two in string.gmatch(table.unpack(arguments, 1, arguments.n)) do
          all[#all + 1] = shown(one, two)
        end
      end))
      return table.concat(all, ",") .. ";" .. result
    end
"##;

/// Returns the interpreter of a machine file.
fn ours() -> Lua {
    let options = RuntimeOptions {
        file: "main.lua".into(),
        home: None,
        cache: None,
        memory: 64 << 20,
        log_target: "offload",
        messages: Messages::Log,
    };
    Runtime::new(options, Arc::new(CancelState::default()), |_, _, _| Ok(())).unwrap().lua
}

fn call(show: &Function, lua: &Lua, name: &str, arguments: &[Argument]) -> Vec<u8> {
    let arguments: Variadic<mlua::Value> = arguments
        .iter()
        .map(|argument| match argument {
            Argument::Text(text) => mlua::Value::String(lua.create_string(text).unwrap()),
            Argument::Number(number) => mlua::Value::Integer(*number),
        })
        .collect();
    show.call::<LuaString>((name, arguments)).unwrap().as_bytes().to_vec()
}

#[derive(Clone, Debug)]
enum Argument {
    Text(Vec<u8>),
    Number(i64),
}

fn text(text: &str) -> Argument {
    Argument::Text(text.as_bytes().to_vec())
}

/// Asserts that both give the same.
#[track_caller]
fn compare(show: &[(Lua, Function); 2], name: &str, arguments: &[Argument]) {
    let [own, original] = show.each_ref().map(|(lua, show)| call(show, lua, name, arguments));
    let readable = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(readable(&own), readable(&original), "{name} {arguments:?}");
}

fn both() -> [(Lua, Function); 2] {
    [ours(), Lua::new()].map(|lua| {
        let show = lua.load(SHOW).set_name("=show").eval().unwrap();
        (lua, show)
    })
}

fn all_functions(show: &[(Lua, Function); 2], subject: &str, pattern: &str, with: &str, number: i64) {
    let (subject, pattern) = (text(subject), text(pattern));
    for name in ["find", "match", "gmatch"] {
        compare(show, name, &[subject.clone(), pattern.clone()]);
        compare(show, name, &[subject.clone(), pattern.clone(), Argument::Number(number)]);
    }
    compare(show, "find", &[subject.clone(), pattern.clone(), Argument::Number(number), text("plain")]);
    for with in [text(with), text("@table"), text("@function")] {
        compare(show, "gsub", &[subject.clone(), pattern.clone(), with.clone()]);
        compare(show, "gsub", &[subject.clone(), pattern.clone(), with, Argument::Number(number)]);
    }
}

/// Covers each rule of the manual, and each error.
#[test]
fn known_patterns_match_as_in_lua() {
    let show = both();
    let classes: String = (1..=127_u8).map(char::from).collect();
    for class in "aAcCdDgGlLpPsSuUwWxXzZ.%-".chars() {
        for pattern in [format!("%{class}"), format!("[%{class}]+"), format!("[^%{class}]*"), format!("%f[%{class}]")] {
            all_functions(&show, &classes, &pattern, "<%0>", 3);
        }
    }
    let subjects =
        ["", "a", "hello world from Lua", "key = value", "((a)b)(c", "aaab", "a\0b", "THE (quick) fox", "äöü"];
    let patterns = [
        "",
        "^",
        "$",
        "^$",
        "^a*$",
        "a-",
        "a-$",
        "(a*(.)%w(%s*))",
        "()",
        "()ll()",
        "(%w+) = (%w+)",
        "%b()",
        "%bxx",
        "%b",
        "%b(",
        "%f[%w]%w+",
        "%f",
        "%fa",
        "%f[",
        "[a-z]+",
        "[^a-z]",
        "[]]",
        "[^]]",
        "[]",
        "[^",
        "[a",
        "[a-",
        "[a-]",
        "[%a-z]",
        "[a%",
        "%",
        "a%",
        "(a",
        "a)",
        "(()",
        "%1",
        "(a)%1",
        "(a)%2",
        "(%1)",
        "()%1",
        "%0",
        "a?a?a?aaa",
        "a+b",
        "a*b",
        ".-b",
        "^hello",
        "h^ello",
        "l$o",
        "%$",
        "\0",
        "[%z]",
        "[a-b-c]",
        "[--a]",
        "(a)(b)(c)(d)(e)",
        "[[:alpha:]]",
        "ab?c*d+e-",
    ];
    for subject in subjects {
        for pattern in patterns {
            for with in ["x", "%0%0", "%1", "%2", "%", "%%", "%x", "<%1|%0>"] {
                all_functions(&show, subject, pattern, with, -2);
            }
        }
    }
    let many = "()".repeat(33);
    let deep = format!("{}a", "(".repeat(33));
    for pattern in [many, deep, "a?".repeat(300), "a*".repeat(300), "a-".repeat(300), "(a)".repeat(32)] {
        all_functions(&show, &"a".repeat(300), &pattern, "x", 1);
    }
}

proptest! {
    #[test]
    fn random_patterns_match_as_in_lua(
        subject in "[ab1 ()%.\\[\\]-]{0,12}",
        pattern in "(\\^?)([ab.1]|%[a-zA-Z0-9%]|\\[|\\]|\\(|\\)|\\(\\)|[*+?-]|%b\\(\\)|%f\\[|\\[\\^|[$^%]){0,8}",
        with in "([ab]|%[0-9%a]){0,4}",
        number in -14_i64..14,
    ) {
        thread_local! {
            static BOTH: [(Lua, Function); 2] = both();
        }
        BOTH.with(|show| all_functions(show, &subject, &pattern, &with, number));
    }
}
