use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use std::collections::HashMap;

use super::*;
use crate::store::golden;

fn store() -> StoreDir {
    StoreDir::default()
}

fn parse(text: impl AsRef<[u8]>) -> Result<Derivation, DerivationError> {
    Derivation::parse(&store(), text.as_ref())
}

/// Returns path, text and contents of each golden derivation.
fn golden_derivations() -> Vec<(StorePath, Vec<u8>, Derivation)> {
    let read = |(name, text): (String, Vec<u8>)| {
        let path = StorePath::parse(&store(), format!("/gnu/store/{name}").as_bytes()).unwrap();
        let derivation = parse(&text).unwrap();
        (path, text, derivation)
    };
    golden::files("drv/*.drv").into_iter().map(read).collect()
}

fn lookup(path: &StorePath) -> io::Result<Derivation> {
    let found = golden_derivations().into_iter().find(|(known, ..)| known == path);
    found.map(|(_, _, derivation)| derivation).ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn named(name: &str) -> Derivation {
    golden_derivations().into_iter().find(|(path, ..)| path.name() == name).unwrap().2
}

fn drv_name(path: &StorePath) -> &str {
    path.name().strip_suffix(".drv").unwrap()
}

const VEC: &str = r#"Derive([("dev","/gnu/store/5w7g43lasdfzb3pr25y01xk81bx2zz6q-vec-dev","",""),("out","/gnu/store/x6xsg8hgh36fcgq2zh58rxix2gh4sy2y-vec","","")],[],[],"x86_64-linux","/bin/sh",["-c","echo \"hi\tthere\\n\" > $out"],[("a","1"),("dev","/gnu/store/5w7g43lasdfzb3pr25y01xk81bx2zz6q-vec-dev"),("name","vec"),("out","/gnu/store/x6xsg8hgh36fcgq2zh58rxix2gh4sy2y-vec")])"#;

#[test]
fn golden_derivations_are_written_back() {
    for (path, text, derivation) in golden_derivations() {
        assert_eq!(derivation.write(), text, "{path}");
    }
}

#[test]
fn golden_derivations_have_their_paths() {
    for (path, _, derivation) in golden_derivations() {
        assert_eq!(derivation.path(&store(), drv_name(&path)).unwrap(), path);
    }
}

#[test]
fn golden_derivations_have_their_output_paths() {
    let mut hashes = ModuloHashes::new(lookup);
    for (path, _, mut derivation) in golden_derivations() {
        let expected: Vec<_> = derivation.output_paths().cloned().collect();
        let computed = hashes.output_paths(&store(), &derivation, drv_name(&path)).unwrap();
        assert_eq!(computed.into_values().collect::<Vec<_>>(), expected, "{path}");
        // Without them in the environment the result is the same.
        for id in derivation.outputs.keys() {
            derivation.env.remove(id.as_bytes());
        }
        let computed = hashes.output_paths(&store(), &derivation, drv_name(&path)).unwrap();
        assert_eq!(computed.into_values().collect::<Vec<_>>(), expected, "{path}");
    }
}

#[test]
fn golden_derivations_are_built_from_their_recipes() {
    for (path, _, derivation) in golden_derivations() {
        let mut env = derivation.env.clone();
        env.retain(|name, _| !derivation.outputs.keys().any(|id| id.as_bytes() == name));
        let recipe = Recipe {
            outputs: derivation.outputs.iter().map(|(id, output)| (id.clone(), output.fixed.clone())).collect(),
            input_derivations: derivation.input_derivations.clone(),
            input_sources: derivation.input_sources.clone(),
            system: derivation.system.clone(),
            builder: derivation.builder.clone(),
            args: derivation.args.clone(),
            env,
        };
        let made = recipe.derivation(&store(), drv_name(&path), &mut ModuloHashes::new(lookup)).unwrap();
        assert_eq!(made, derivation);
    }
}

#[test]
fn the_golden_derivations_have_their_parts() {
    let top = named("top-1.0.drv");
    assert_eq!(top.required_features(), ["kvm", "big-parallel"]);
    assert!(top.prefers_local_build());
    assert_eq!(top.env("empty"), Some(&b""[..]));
    assert_eq!(top.env("none"), None);
    assert_eq!(top.env("multi\nline"), Some(&b"\"\\\n\r\t"[..]));
    // Guile wrote the letter in ISO 8859-1: strings are bytes.
    assert_eq!(top.args[1], b"# \"quoted\" back\\slash\r\n\ttab caf\xe9; > $out");
    assert!(!top.is_fixed_output());
    assert!(top.input_derivations.len() > 5 && top.references().is_sorted());

    let flat = named("fx.drv");
    let fixed = flat.fixed_output().unwrap();
    assert_eq!((fixed.recursive, fixed.algorithm, fixed.hash.len()), (false, HashAlgorithm::Sha256, 32));
    assert_eq!(flat.output_paths().next().unwrap().as_str(), "/gnu/store/4fspafxnqr76lhdb1d16lrd9i88s6j8z-fx");
    let recursive = named("fx-recursive.drv");
    assert!(recursive.fixed_output().unwrap().recursive);
    assert_eq!(named("fx-sha512.drv").fixed_output().unwrap().method(), "r:sha512");

    let tree = named("tree.drv");
    assert_eq!(tree.outputs.keys().collect::<Vec<_>>(), ["dev", "out"]);
    assert!(tree.required_features().is_empty() && !tree.prefers_local_build());
}

#[test]
fn the_builder_of_a_fixed_output_does_not_change_its_path() {
    let twins: Vec<_> = golden_derivations().into_iter().filter(|(path, ..)| path.name() == "fx.drv").collect();
    let [(one_path, _, one), (other_path, _, other)] = &twins[..] else { panic!() };
    assert_ne!(one_path, other_path);
    let mut hashes = ModuloHashes::new(lookup);
    assert_eq!(hashes.modulo(one).unwrap(), hashes.modulo(other).unwrap());
}

#[test]
fn a_known_derivation_has_its_known_paths() {
    let derivation = parse(VEC).unwrap();
    assert_eq!(derivation.write(), VEC.as_bytes());
    assert_eq!(derivation.args[1], b"echo \"hi\tthere\\n\" > $out");
    let path = derivation.path(&store(), "vec").unwrap();
    assert_eq!(path.as_str(), "/gnu/store/0yjkz5790xvq2z2fnq7s9wbmlrs56imh-vec.drv");
    let computed = ModuloHashes::new(lookup).output_paths(&store(), &derivation, "vec").unwrap();
    assert_eq!(computed["out"].as_str(), "/gnu/store/x6xsg8hgh36fcgq2zh58rxix2gh4sy2y-vec");
    assert_eq!(computed["dev"].as_str(), "/gnu/store/5w7g43lasdfzb3pr25y01xk81bx2zz6q-vec-dev");
}

#[test]
fn a_missing_input_is_an_error() {
    let mut derivation = parse(VEC).unwrap();
    let missing = path::text_path(&store(), "missing.drv", &[0; 32], &[]).unwrap();
    derivation.input_derivations.insert(missing.clone(), BTreeSet::from(["out".to_owned()]));
    match ModuloHashes::new(lookup).output_paths(&store(), &derivation, "vec") {
        Err(DerivationError::Input { path, source }) => {
            assert_eq!((path, source.kind()), (missing, io::ErrorKind::NotFound));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_long_chain_of_inputs_causes_no_recursion() {
    // The chain is as deep as real graphs and deeper: there is no recursion.
    let mut known: HashMap<StorePath, Derivation> = HashMap::new();
    let mut before = None;
    for index in 0..2000 {
        let name = format!("link-{index}");
        let recipe = Recipe {
            outputs: BTreeMap::from([("out".to_owned(), None)]),
            input_derivations: before
                .iter()
                .map(|path: &StorePath| (path.clone(), BTreeSet::from(["out".to_owned()])))
                .collect(),
            input_sources: BTreeSet::new(),
            system: "x86_64-linux".to_owned(),
            builder: b"/bin/sh".to_vec(),
            args: Vec::new(),
            env: BTreeMap::new(),
        };
        // Only the input's own hash is computed; the others are needed at the end.
        let mut hashes = ModuloHashes::new(|_: &StorePath| parse(VEC).map_err(io::Error::other));
        let derivation = recipe.derivation(&store(), &name, &mut hashes).unwrap();
        let path = derivation.path(&store(), &name).unwrap();
        known.insert(path.clone(), derivation);
        before = Some(path);
    }
    let last = &known[&before.unwrap()];
    let mut asked = 0;
    let mut hashes = ModuloHashes::new(|path: &StorePath| {
        asked += 1;
        Ok(known[path].clone())
    });
    hashes.modulo(last).unwrap();
    assert!(asked < 4000, "{asked}");
}

fn problem(text: impl AsRef<[u8]>) -> (usize, String) {
    match parse(&text) {
        Err(DerivationError::Syntax { position, problem }) => (position, problem),
        other => panic!("{}: {other:?}", text.as_ref().escape_ascii()),
    }
}

#[test]
fn derivations_cut_anywhere_are_refused() {
    for (_, text, _) in golden_derivations() {
        for end in 0..text.len() {
            assert!(problem(&text[..end]).0 <= end);
        }
        assert_eq!(problem([&text[..], b"\n"].concat()).0, text.len());
    }
}

#[test]
fn everything_is_sorted_and_unique() {
    let dev = r#"("dev","/gnu/store/5w7g43lasdfzb3pr25y01xk81bx2zz6q-vec-dev","","")"#;
    let out = r#"("out","/gnu/store/x6xsg8hgh36fcgq2zh58rxix2gh4sy2y-vec","","")"#;
    let input = r#"("/gnu/store/0yjkz5790xvq2z2fnq7s9wbmlrs56imh-vec.drv",["dev","out"])"#;
    let later = input.replace("0yjk", "1yjk");
    let source = r#""/gnu/store/xnryj9c4k27hjviqs29c3dydawc71ga6-foo""#;
    let earlier = source.replace("xnry", "anry");
    let text = |outputs: &str, inputs: &str, sources: &str, env: &str| {
        format!(r#"Derive([{outputs}],[{inputs}],[{sources}],"x86_64-linux","/bin/sh",[],[{env}])"#)
    };
    let pair = |one: &str, two: &str| format!("{one},{two}");
    parse(text(&pair(dev, out), &pair(input, &later), &pair(&earlier, source), r#"("a",""),("b","")"#)).unwrap();
    for bad in [
        text("", "", "", ""),
        text(&pair(out, dev), "", "", ""),
        text(&pair(out, out), "", "", ""),
        text(out, &pair(&later, input), "", ""),
        text(out, &pair(input, input), "", ""),
        text(out, &input.replace(r#""dev","out""#, r#""out","dev""#), "", ""),
        text(out, &input.replace(r#""dev","out""#, r#""dev","dev""#), "", ""),
        text(out, &input.replace(".drv", ""), "", ""),
        text(out, "", &pair(source, &earlier), ""),
        text(out, "", &pair(source, source), ""),
        text(out, "", "", r#"("b",""),("a","")"#),
        text(out, "", "", r#"("a",""),("a","")"#),
    ] {
        problem(bad);
    }
}

#[test]
fn hashes_of_fixed_outputs_are_checked() {
    let hash = "0".repeat(63) + "a";
    let text = |method: &str, hash: &str| {
        format!(
            r#"Derive([("out","/gnu/store/4fspafxnqr76lhdb1d16lrd9i88s6j8z-fx","{method}","{hash}")],[],[],"s","b",[],[])"#
        )
    };
    assert!(parse(text("sha256", &hash)).unwrap().is_fixed_output());
    assert!(parse(text("r:blake2s-256", &hash)).unwrap().is_fixed_output());
    for (method, hash) in [
        ("", &hash[..]),
        ("sha256", ""),
        ("r:", &hash),
        ("r:r:sha256", &hash),
        ("sha257", &hash),
        ("sha512", &hash),
        ("sha256", &hash[1..]),
        ("sha256", &hash.to_uppercase()),
        ("sha256", &hash.replace('a', "g")),
    ] {
        problem(text(method, hash));
    }
}

#[test]
fn other_faults_are_refused() {
    for (from, to) in [
        ("Derive(", "DrvWithVersion("),
        ("\"x86_64-linux\"", "\"\""),
        ("x86_64-linux", "x86 64"),
        ("x86_64-linux", "x86\\n"),
        ("],[],[]", "],[],[,]"),
        ("],[],[]", "],[], []"),
        ("\"/bin/sh\"", "/bin/sh"),
        ("/bin/sh", "/bin\0sh"),
        ("/bin/sh", "/bin\\\0sh"),
        ("/gnu/store/5w7", "/gnu/5w7"),
        ("(\"dev\"", "(\"d v\""),
        ("(\"a\",\"1\")", "(\"a\")"),
    ] {
        let bad = VEC.replacen(from, to, 1);
        assert_ne!(bad, VEC);
        problem(bad);
    }
    // The daemon reads it in the same way.
    assert_eq!(parse(VEC.replace("/bin/sh", "/b\\i\\q")).unwrap().builder, b"/biq");
}

fn strings() -> impl Strategy<Value = Vec<u8>> {
    vec(prop_oneof![Just(b'"'), Just(b'\\'), Just(b'\n'), Just(b'\t'), Just(b'\r'), 1..=255u8], 0..12)
}

fn paths(suffix: &'static str) -> impl Strategy<Value = StorePath> {
    any::<[u8; 32]>().prop_map(move |hash| path::text_path(&store(), &format!("x{suffix}"), &hash, &[]).unwrap())
}

fn fixed() -> impl Strategy<Value = Option<FixedOutput>> {
    let algorithm = proptest::sample::select(&HashAlgorithm::ALL[..]);
    proptest::option::of((any::<bool>(), algorithm, any::<u8>()).prop_map(|(recursive, algorithm, byte)| FixedOutput {
        recursive,
        algorithm,
        hash: vec![byte; algorithm.size()],
    }))
}

prop_compose! {
    fn derivations()(
        outputs in btree_map("[a-z]{1,5}", (paths(""), fixed()), 1..4),
        input_derivations in btree_map(paths(".drv"), btree_set("[a-z]{1,5}", 0..3), 0..4),
        input_sources in btree_set(paths(""), 0..4),
        system in "[a-z0-9_]{1,9}-linux",
        builder in strings(),
        args in vec(strings(), 0..4),
        env in btree_map(strings(), strings(), 0..4),
    ) -> Derivation {
        let outputs = outputs.into_iter().map(|(id, (path, fixed))| (id, Output { path, fixed })).collect();
        Derivation { outputs, input_derivations, input_sources, system, builder, args, env }
    }
}

proptest! {
    #[test]
    fn a_written_derivation_is_read_back(derivation in derivations()) {
        let text = derivation.write();
        prop_assert_eq!(parse(&text).unwrap(), derivation);
    }

    #[test]
    fn a_changed_text_is_refused_or_written_back(derivation in derivations(), position in any::<proptest::sample::Index>(), byte in any::<u8>()) {
        let mut text = derivation.write();
        let position = position.index(text.len());
        text[position] = byte;
        // It is refused, or its text is written back.
        if let Ok(changed) = parse(&text) {
            prop_assert_eq!(parse(changed.write()).unwrap(), changed);
        }
    }
}
