use base64::engine::general_purpose::STANDARD;

use super::*;

/// Keys made by ssh-keygen, and what `ssh-keygen -l` says of them.
const KEYS: [(HostKeyKind, &str, &str); 5] = [
    (
        HostKeyKind::Ed25519,
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGiZC8RF5TdIuz3cZ2RZ6pH6/WJ7mzWKRX7KPrGwENOG root@a build machine",
        "SHA256:vdmTsheNbcZW1iUV2WtL+x82yyWZZnUd0dl+jhoexg8",
    ),
    (
        HostKeyKind::EcdsaP256,
        "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBMi4MKB2fAdkCX64VuFoR6yhRNALWhZNWPt/l2sld1/v7odJpmycLk6343DCHNz7ubQWAFqik9Jgty+en8eHJSk= root@a build machine",
        "SHA256:nauUdyTXqEGlm9KxssG0AHhAZEWoLpGCtw9TfyH2VVM",
    ),
    (
        HostKeyKind::EcdsaP384,
        "ecdsa-sha2-nistp384 AAAAE2VjZHNhLXNoYTItbmlzdHAzODQAAAAIbmlzdHAzODQAAABhBF/Y+SQNtVW9/Kh0AZmCa+c4axrLawHKMIj8tZrCPIcvSZUSqFWtFea/F3/3DtN14bMCss16qcj13Hnzoi/G4uh192la+MRzV+r7xIea6S1ws0h4hdtFxJIiz60eH+7fjA== root@a build machine",
        "SHA256:G9TY4/4Oncvg8SD3RONrTDzl+pFSc23lIop7CKqJMTI",
    ),
    (
        HostKeyKind::EcdsaP521,
        "ecdsa-sha2-nistp521 AAAAE2VjZHNhLXNoYTItbmlzdHA1MjEAAAAIbmlzdHA1MjEAAACFBAA5UX3lzf631mqSizKwH6HZjYLMRdue0RgE3u42QFTPgKXHCl3ySQR+Dg+yQEp7hFIuEp6ewELZJ4YSOtI7yB3k+QFtuZgpBYQIvgUG/7ZCK2kiaUsn0Z9qAmzKKfIUe4UdBvyYqMZzvY+c+KaBfPZzb4FicACtN93NKF0LdxHsdTLtVg== root@a build machine",
        "SHA256:vmqnbVyYV2PiayGXRh8Nv3fuZanl1kC/ztFk6nPMTXM",
    ),
    (
        HostKeyKind::Rsa,
        "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQCSPYchwJQZ0jZR7RvW0Qi9GbNEAwr34u+ZOraEq0BRgyULFI0sP4jzOOVaGTdz3E4dGRoXraJ6GRN/owb6/dl26Yq3kES6BedNntJWulkNXiA0G9Ye7Hi+eh0pWQhw0hUGY/PB5ZNkwMDHY6APn9jsI8hQJJb5eu93lQJygOnlNHzPdCnqE5UWMxpxDXmVGGQYYTkBud+imUnQeNtd3j1l3fBCQEI2cwYE4/yatKEuKr8g+eUMIs+9EzszwmfF7l3pdy3sXUU5qqRSpZkxyh6bAKksz1+fBHuVOj+Tjr6VCbR753hiKw2pbb0/E5G3hIKDUaHx+Rv78ZCe050TWH8H root@a build machine",
        "SHA256:3FQ1CQSEpqwVXfuh/p6r3FK9qYlu7mg8qM/NvORC/FU",
    ),
];

#[test]
fn keys_of_every_type_are_read() {
    for (kind, text, fingerprint) in KEYS {
        let key = HostKey::parse(text).unwrap();
        assert_eq!(key.kind, kind);
        assert_eq!(key.fingerprint(), fingerprint);
        let bare = text.split(" root@").next().unwrap();
        assert_eq!(key.to_openssh(), bare);
        assert_eq!(HostKey::parse(&format!("  {bare}\n")).unwrap(), key);
        assert_eq!(HostKey::parse(bare.trim_end_matches('=')).unwrap(), key, "padding may be missing");
        assert_eq!(HostKeyKind::from_name(kind.name()), Some(kind));
    }
}

#[test]
fn a_key_cut_anywhere_is_refused() {
    for (_, text, _) in KEYS {
        let bare = text.split(" root@").next().unwrap();
        for length in 0..bare.trim_end_matches('=').len() {
            assert!(HostKey::parse(&bare[..length]).is_err(), "{}", &bare[..length]);
        }
    }
}

#[test]
fn bytes_after_the_key_are_refused() {
    for (kind, text, _) in KEYS {
        let mut key = HostKey::parse(text).unwrap();
        key.blob.push(0);
        assert_eq!(HostKey::parse(&key.to_openssh()), Err(HostKeyError::Damaged(kind)));
        key.blob.extend([0, 0, 0]);
        assert_eq!(HostKey::parse(&key.to_openssh()), Err(HostKeyError::Damaged(kind)));
    }
}

#[test]
fn each_invalid_text_has_its_message() {
    let ed25519 = KEYS[0].1;
    let base64 = ed25519.split(' ').nth(1).unwrap();
    let cases = [
        (String::new(), "expected a host key in OpenSSH form, \"ssh-ed25519 AAAA…\", found an empty string"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl".into(), "expected a public host key, found a private key"),
        (KEYS[0].2.into(), "expected a public host key, found a fingerprint"),
        (
            format!("example.org {ed25519}"),
            "expected a host key alone, \"TYPE BASE64\", found a line of a known_hosts file",
        ),
        (
            format!("ssh-dss {base64}"),
            "expected a host key of type ssh-ed25519, ecdsa-sha2-nistp256, ecdsa-sha2-nistp384, ecdsa-sha2-nistp521 or \
             ssh-rsa, found 'ssh-dss'",
        ),
        ("@cert-authority *.example.org ssh-ed25519 AAAA".into(), "expected a host key, found a line of a known_hosts file that is marked '@cert-authority'"),
        ("ssh-ed25519".into(), "the ssh-ed25519 host key has no base64 part after its type"),
        (format!("ssh-ed25519 {}!{}", &base64[..20], &base64[20..]), "the base64 part of the ssh-ed25519 host key is damaged"),
        (format!("ssh-rsa {base64}"), "the host key says it is ssh-rsa, but holds a key of type 'ssh-ed25519'"),
        (
            "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAIQCrCxyvhlz6GeJMxy2cVbZM9iZ8UPjTRFEPuEN8Dm28wQ==".into(),
            "the RSA host key has 256 bits; at least 2048 are needed",
        ),
        (
            "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQDLXn5p5K8LJcfmff64MQNZZ+cP4bGepDgCEq4e40frDspYBSYYzYX6sRN/bgWLPu5mmjdiv3xMeH17FDVCQGrlayykKjKltfGPrxQzT+QcFPalUD2Ds8JRPrn3V7NZYLR9K/NID7BW5xDE7px2mURLIXS79lRp4xMTElfvjHiKdw==".into(),
            "the RSA host key has 1024 bits; at least 2048 are needed",
        ),
    ];
    for (text, message) in cases {
        assert_eq!(HostKey::parse(&text).unwrap_err().to_string(), message);
    }
}

/// What people paste, and the keys that the hint then says to write, by their number in `KEYS`.
#[test]
fn pasted_texts_are_recognized_and_their_key_is_repeated() {
    let [ed25519, p256, .., rsa] = KEYS.map(|(_, text, _)| text.split(" root@").next().unwrap());
    let encoded = ed25519.split(' ').nth(1).unwrap();
    for (text, error, keys) in [
        // ssh-keyscan, with its comments; known_hosts.
        (format!("# b1:22 SSH-2.0-OpenSSH_9.2\nb1 {ed25519}\n"), "a line of a known_hosts", vec![ed25519]),
        (
            format!("# b1:22 SSH-2.0-OpenSSH_9.2\nb1 {ed25519}\n# b1:22 SSH\nb1 {rsa}"),
            "found 2 keys",
            vec![ed25519, rsa],
        ),
        ("# b1:22 SSH-2.0-OpenSSH_9.2".to_owned(), "found a comment", vec![]),
        (format!("b1,192.0.2.1 {ed25519} comment"), "a line of a known_hosts", vec![ed25519]),
        (format!("|1|c2FsdA==|aGFzaA== {ed25519}"), "a line of a known_hosts", vec![ed25519]),
        (format!("b1 {}", &ed25519[..60]), "a line of a known_hosts", vec![]),
        // The key of a certificate authority is not a host key.
        (format!("@cert-authority * {ed25519}"), "marked '@cert-authority'", vec![]),
        (format!("@revoked b1 {ed25519}"), "marked '@revoked'", vec![]),
        // Several .pub files.
        (format!("{ed25519} root@b1\n{p256} root@b1\n"), "found 2 keys", vec![ed25519, p256]),
        (format!("{ed25519} {p256}"), "found 2 keys", vec![ed25519, p256]),
        (format!("{ed25519},{p256}"), "found 2 keys", vec![ed25519, p256]),
        // Quotes, no-break spaces, a line in two pieces.
        (format!("\"{ed25519}\""), "in quotes", vec![ed25519]),
        (format!("\u{201c}{ed25519}\u{201d}"), "in quotes", vec![ed25519]),
        (format!("ssh-ed25519 '{encoded}'"), "in quotes", vec![ed25519]),
        (ed25519.replace(' ', "\u{a0}"), "in quotes", vec![ed25519]),
        (format!("{}\n{}", &ed25519[..40], &ed25519[40..]), "found 2 lines", vec![]),
        // Only the base64 part, a whole line in base64 (Nix), the output of other programs.
        (encoded.to_owned(), "in base64 alone", vec![ed25519]),
        (STANDARD.encode(format!("{ed25519} root@b1\n")), "in quotes", vec![ed25519]),
        (format!("ed25519 {encoded}"), "in quotes", vec![ed25519]),
        (format!("rsa-sha2-512 {}", &rsa[8..60]), "found 'rsa-sha2-512'", vec![]),
        (
            "256 SHA256:vdmTsheNbcZW1iUV2WtL+x82yyWZZnUd0dl+jhoexg8 root@b1 (ED25519)".to_owned(),
            "found a fingerprint",
            vec![],
        ),
        ("16:27:ac:a5:76:28:2d:36:63:1b:56:4d:eb:df:a6:48".to_owned(), "found a fingerprint", vec![]),
        ("b1 IN SSHFP 4 2 bdd993b2178d6dc656d62515d96b4b".to_owned(), "found a fingerprint", vec![]),
        ("/etc/ssh/ssh_host_ed25519_key.pub".to_owned(), "the name of a file", vec![]),
        ("---- BEGIN SSH2 PUBLIC KEY ----\nAAAA\n---- END SSH2 PUBLIC KEY ----".to_owned(), "in another form", vec![]),
        ("(public-key (ecc (curve Ed25519)))".to_owned(), "a signing key of Guix", vec![]),
        ("ssh-ed25519-cert-v01@openssh.com AAAAIHNza".to_owned(), "found 'ssh-ed25519-cert", vec![]),
    ] {
        let found = HostKey::parse(&text).unwrap_err();
        assert!(found.to_string().contains(error), "{text}: {found}");
        let hint = found.hint().unwrap_or_else(|| panic!("{text}: no hint"));
        let repeated: Vec<&str> = hint.split('"').filter(|part| part.contains(" AAAA")).collect();
        assert_eq!(repeated, keys, "{text}: {hint}");
        assert!(repeated.iter().all(|key| HostKey::parse(key).is_ok()));
    }
    // Any other text after the key is a comment.
    for comment in ["# \"x\"", "ssh-rsa", "b1 ssh-ed25519 key", encoded] {
        assert!(HostKey::parse(&format!("{ed25519} {comment}")).is_ok(), "{comment}");
    }
}
