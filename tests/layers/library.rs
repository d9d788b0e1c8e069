//! The files of the library, and which of them uses which; `circles.rs` says what counts as a use.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// A module as its path from the root of the crate.
type Module = Vec<String>;

/// One file of the library.
struct File {
    /// Its name below `src`.
    name: String,
    children: BTreeSet<String>,
    /// What `use` has brought: the name here, the whole path, and whether others are to see it.
    imports: Vec<(String, Module, bool)>,
    /// Paths in the code, as they are written.
    paths: Vec<Module>,
    /// All words of the code.
    words: BTreeSet<String>,
    /// The names of functions, and with those in an `impl` that is of no trait the name of its type.
    functions: Vec<(Option<String>, String)>,
    /// The names of methods that are called.
    calls: BTreeSet<String>,
}

/// The words and signs of a source text, `::` being one, without comments, literals and the tests at its end.
fn tokens(text: &str) -> Vec<String> {
    let characters: Vec<char> = text.chars().collect();
    let starts = |at: usize, with: &str| with.chars().enumerate().all(|(i, c)| characters.get(at + i) == Some(&c));
    let (mut tokens, mut at) = (Vec::new(), 0);
    while at < characters.len() {
        let c = characters[at];
        if starts(at, "//") {
            at += characters[at..].iter().position(|c| *c == '\n').unwrap_or(characters.len() - at);
        } else if c == '"' {
            at += 1;
            while at < characters.len() && characters[at] != '"' {
                at += if characters[at] == '\\' { 2 } else { 1 };
            }
            at += 1;
        } else if c == 'r' && (starts(at, "r\"") || starts(at, "r#\"")) {
            let end = if starts(at, "r#") { "\"#" } else { "\"" };
            at += end.len() + 1;
            while at < characters.len() && !starts(at, end) {
                at += 1;
            }
            at += end.len();
        } else if c == '\'' && (characters.get(at + 1) == Some(&'\\') || characters.get(at + 2) == Some(&'\'')) {
            at += 3;
            while characters.get(at - 1) != Some(&'\'') {
                at += 1;
            }
        } else if c.is_alphanumeric() || c == '_' {
            let word: String = characters[at..].iter().take_while(|c| c.is_alphanumeric() || **c == '_').collect();
            at += word.chars().count();
            tokens.push(word);
        } else if starts(at, "::") {
            at += 2;
            tokens.push("::".to_owned());
        } else {
            at += 1;
            if !c.is_whitespace() {
                tokens.push(c.to_string());
            }
        }
    }
    tokens
}

/// The leaves of a `use` that begins at `at`: name, path; `at` is behind the tree afterwards.
fn tree(tokens: &[String], at: &mut usize, prefix: &[String], leaves: &mut Vec<(String, Module)>) {
    let mut path = prefix.to_vec();
    while let Some(token) = tokens.get(*at) {
        match token.as_str() {
            "::" => *at += 1,
            "{" => {
                *at += 1;
                while tokens[*at] != "}" {
                    tree(tokens, at, &path, leaves);
                    if tokens[*at] == "," {
                        *at += 1;
                    }
                }
                *at += 1;
                return;
            }
            "," | "}" | ";" => break,
            "as" => {
                leaves.push((tokens[*at + 1].clone(), path));
                *at += 2;
                return;
            }
            "self" if !path.is_empty() => *at += 1,
            word => {
                path.push(word.to_owned());
                *at += 1;
            }
        }
    }
    leaves.push((path.last().cloned().unwrap_or_default(), path));
}

impl File {
    fn new(name: String, module: &[String], text: &str) -> (File, BTreeSet<String>) {
        let tokens = tokens(text);
        let mut file = File {
            name,
            children: BTreeSet::new(),
            imports: Vec::new(),
            paths: Vec::new(),
            words: BTreeSet::new(),
            functions: Vec::new(),
            calls: BTreeSet::new(),
        };
        let (mut tests, mut at) = (BTreeSet::new(), 0);
        let test: Vec<&str> = "# [ cfg ( test ) ]".split(' ').collect();
        let is = |at: usize, words: &[&str]| {
            words.iter().enumerate().all(|(i, word)| tokens.get(at + i).is_some_and(|t| t == word))
        };
        let (mut is_test, mut is_public) = (false, false);
        let (mut depth, mut within) = (0, None);
        while at < tokens.len() {
            if is(at, &test) {
                is_test = true;
                at += test.len();
                continue;
            }
            match tokens[at].as_str() {
                "mod" if is(at + 2, &[";"]) => {
                    if is_test { &mut tests } else { &mut file.children }.insert(tokens[at + 1].clone());
                    at += 3;
                }
                // Tests are at the end of a file.
                "mod" if is_test => break,
                // Not that of a signature.
                "impl" if at == 0 || ["}", ";", "]", "unsafe"].contains(&tokens[at - 1].as_str()) => {
                    let end = at + tokens[at..].iter().position(|token| token == "{").unwrap();
                    within = self_type(&tokens[at + 1..end]);
                    at += 1;
                }
                "fn" => {
                    file.functions.push((within.clone(), tokens[at + 1].clone()));
                    at += 1;
                }
                "." if is(at + 2, &["("]) => {
                    file.calls.insert(tokens[at + 1].clone());
                    at += 1;
                }
                "use" => {
                    let mut leaves = Vec::new();
                    at += 1;
                    tree(&tokens, &mut at, &[], &mut leaves);
                    file.imports.extend(leaves.into_iter().map(|(name, path)| (name, path, is_public)));
                }
                "pub" => {
                    is_public = true;
                    at += 1;
                    if is(at, &["("]) {
                        at += tokens[at..].iter().position(|token| token == ")").unwrap() + 1;
                    }
                    continue;
                }
                word if is(at + 1, &["::"]) && word.chars().all(|c| c.is_alphanumeric() || c == '_') => {
                    let mut path = vec![word.to_owned()];
                    at += 1;
                    while is(at, &["::"])
                        && tokens.get(at + 1).is_some_and(|t| t.chars().all(|c| c.is_alphanumeric() || c == '_'))
                    {
                        path.push(tokens[at + 1].clone());
                        at += 2;
                    }
                    if is(at, &["::"]) {
                        at += 1;
                    }
                    file.words.insert(path[0].clone());
                    file.paths.push(path);
                }
                word => {
                    match word {
                        "{" => depth += 1,
                        "}" => depth -= 1,
                        _ => {}
                    }
                    if depth == 0 && word == "}" {
                        within = None;
                    }
                    file.words.insert(word.to_owned());
                    at += 1;
                }
            }
            (is_test, is_public) = (false, false);
        }
        for (_, path, _) in &mut file.imports {
            *path = absolute(module, &file.children, path).unwrap_or_default();
        }
        file.imports.retain(|(_, path, _)| !path.is_empty());
        (file, tests)
    }
}

/// The type of an `impl`, from the words between that and its brace; `None` if it is of a trait.
fn self_type(words: &[String]) -> Option<String> {
    let mut depth = 0;
    let mut name = None;
    for word in words {
        match word.as_str() {
            "<" => depth += 1,
            ">" => depth -= 1,
            "for" if depth == 0 => return None,
            "where" => break,
            word if depth == 0 && word.chars().all(|c| c.is_alphanumeric() || c == '_') => name = Some(word.to_owned()),
            _ => {}
        }
    }
    name
}

/// The path from the root of the crate, if it leads into it.
fn absolute(module: &[String], children: &BTreeSet<String>, path: &[String]) -> Option<Module> {
    let mut base = module.to_vec();
    let mut rest = path;
    match rest.first()?.as_str() {
        "crate" => {
            base.clear();
            rest = &rest[1..];
        }
        "self" => rest = &rest[1..],
        "super" => {
            while rest.first().is_some_and(|word| word == "super") {
                base.pop();
                rest = &rest[1..];
            }
        }
        word if children.contains(word) => {}
        _ => return None,
    }
    base.extend_from_slice(rest);
    Some(base)
}

/// The library: each module and its file.
pub struct Library(BTreeMap<Module, File>);

impl Library {
    /// Reads the library whose root is the file `lib.rs` of a directory.
    pub fn read(source: &Path) -> Library {
        let mut library = Library(BTreeMap::new());
        library.add(source, Vec::new(), "lib.rs".to_owned());
        library
    }

    fn add(&mut self, source: &Path, module: Module, name: String) {
        let text = fs::read_to_string(source.join(&name)).unwrap();
        let (file, _) = File::new(name, &module, &text);
        let children = file.children.clone();
        self.0.insert(module.clone(), file);
        for child in children {
            let mut module = module.clone();
            module.push(child);
            let path = module.join("/");
            let names = [format!("{path}.rs"), format!("{path}/mod.rs")];
            let name = names.into_iter().find(|name| source.join(name).exists()).unwrap();
            self.add(source, module, name);
        }
    }

    /// The module that defines what a path names, if that is not a module itself.
    fn definer(&self, path: &[String], depth: usize) -> Option<&Module> {
        let length = (0..=path.len()).rev().find(|length| self.0.contains_key(&path[..*length]))?;
        let (module, file) = self.0.get_key_value(&path[..length])?;
        let Some(item) = path.get(length) else {
            // A module and another item may have the same name.
            let (name, parent) = path.split_last()?;
            let imports = &self.0[parent].imports;
            let named = imports.iter().find(|(other, whole, _)| other == name && whole != path)?;
            return if depth > 0 { self.definer(&named.1, depth - 1) } else { None };
        };
        match file.imports.iter().find(|(name, ..)| name == item) {
            Some((_, whole, _)) if depth > 0 => {
                let mut whole = whole.clone();
                whole.extend_from_slice(&path[length + 1..]);
                self.definer(&whole, depth - 1)
            }
            _ => Some(module),
        }
    }

    /// The methods that a file has for a type of another file, if their names are nowhere else: with the file.
    fn methods(&self) -> BTreeMap<&str, &str> {
        let mut names: BTreeMap<&str, usize> = BTreeMap::new();
        for (_, name) in self.0.values().flat_map(|file| &file.functions) {
            *names.entry(name).or_default() += 1;
        }
        let mut methods = BTreeMap::new();
        for file in self.0.values() {
            let is_foreign = |of: &str| file.imports.iter().any(|(name, ..)| name == of);
            let foreign = file.functions.iter().filter(|(of, _)| of.as_deref().is_some_and(is_foreign));
            methods.extend(
                foreign
                    .filter(|(_, name)| names[name.as_str()] == 1)
                    .map(|(_, name)| (name.as_str(), file.name.as_str())),
            );
        }
        methods
    }

    /// For each file, the files that it uses.
    pub fn uses(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let mut uses: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        let methods = self.methods();
        for (module, file) in &self.0 {
            let used = uses.entry(&file.name).or_default();
            let counts = |(name, _, is_public): &&(String, Module, bool)| !is_public || file.words.contains(name);
            let imports = file.imports.iter().filter(counts).map(|(_, path, _)| path.clone());
            let paths = file.paths.iter().filter_map(|path| {
                let imported = file.imports.iter().find(|(name, ..)| *name == path[0]);
                imported.map_or_else(
                    || absolute(module, &file.children, path),
                    |(_, whole, _)| Some(whole.iter().chain(&path[1..]).cloned().collect()),
                )
            });
            let called = file.calls.iter().filter_map(|name| methods.get(name.as_str()));
            used.extend(called.filter(|definer| **definer != file.name));
            for path in imports.chain(paths) {
                if let Some(definer) = self.definer(&path, 8).filter(|definer| *definer != module) {
                    used.insert(&self.0[definer].name);
                }
            }
        }
        uses
    }
}
