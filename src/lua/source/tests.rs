use super::*;

const FILE: &str = r#"-- build_machine { name = "not this one" }
local base = { user = "offload", --[[ speed = 1, ]] port = 22 }
local text = [==[ build_machine { speed = 1 } ]==]
return {
  build_machine {
    inherit = base,
    name = "a\"}", ["speed"] = 2,
    systems = {
      "x86_64-linux", port = 1,
    },
    accepts = function(request)
      local a, features = 1, 2
      if a == features then return false end
      for i = 1, 2 do local x; enabled = i end
      repeat local y; user = 1 until true
      return true
    end,
    parallel_builds = 4; host_key = 'k'
  }, local_machine { },
  (build_machine) ({
    name = 1 }),
  limits = { evaluate = 2 * (1 + 1), memory = 2^20 },
  score = nil,
}
"#;

#[test]
fn fields_of_a_call_are_found_on_their_lines() {
    let source = Source::new(FILE);
    let items = source.call("build_machine", 5);
    let mut fields: Vec<_> = items.fields.iter().map(|(name, line)| (name.as_str(), *line)).collect();
    fields.sort();
    assert_eq!(
        fields,
        [
            ("accepts", 11),
            ("host_key", 18),
            ("inherit", 6),
            ("name", 7),
            ("parallel_builds", 18),
            ("speed", 7),
            ("systems", 8)
        ]
    );
    assert!(items.positional.is_empty());
    assert_eq!(source.call("build_machine", 20).fields["name"], 21);
    assert_eq!(source.call("another_name", 2).fields["port"], 2);
    assert_eq!(source.call("build_machine", 1000), ItemLines::default());
}

#[test]
fn items_of_the_returned_table_are_found_on_their_lines() {
    let items = Source::new(FILE).returned();
    assert_eq!(items.positional, [5, 19, 20]);
    assert_eq!(items.fields["limits"], 22);
    assert_eq!(items.fields["score"], 23);
    assert_eq!(items.fields.len(), 2);
}

#[test]
fn a_table_is_found_by_its_name() {
    let range = Source::new(FILE).table_after("limits").unwrap();
    assert_eq!(&FILE[range], "{ evaluate = 2 * (1 + 1), memory = 2^20 }");
    assert_eq!(Source::new("limits = {").table_after("limits"), None);
    assert_eq!(Source::new("limits = 1").table_after("limits"), None);
}

#[test]
fn broken_texts_end() {
    assert_eq!(Source::new("return {\n{ (}\n").unclosed(), Some(2));
    assert_eq!(Source::new("return { ('{') }").unclosed(), None);
    for end in 0..FILE.len() {
        let source = Source::new(&FILE[..end]);
        source.returned();
        source.table_after("limits");
        source.call("build_machine", 5);
    }
    for text in ["[[", "--[[", "\"", "'\\", "}}", "end end", "é{ = ", "[=", "return }"] {
        let source = Source::new(text);
        source.returned();
        source.call("x", 1);
        source.table_after("x");
    }
}
