//! Completions and manual pages are made of the command line as it is.

use std::fs;

use crate::{bellwether, run};

/// Verbs as the help lists them.
fn verbs() -> Vec<String> {
    let help = run(&mut bellwether(&["--help"])).out;
    let listed = help.split_once("Commands:\n").unwrap().1.lines().take_while(|line| !line.is_empty());
    listed
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next().map(str::to_owned))
        .filter(|verb| !verb.is_empty() && verb != "help")
        .collect()
}

#[test]
fn every_shell_completes_every_verb() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let made = run(&mut bellwether(&["completions", shell]));
        assert_eq!((made.code, made.err.as_str()), (Some(0), ""));
        for verb in verbs() {
            assert!(made.out.contains(&verb), "{shell}: {verb}");
        }
    }
    assert_eq!(run(&mut bellwether(&["completions", "tcsh"])).code, Some(2));
}

#[test]
fn every_verb_has_its_page() {
    let main = run(&mut bellwether(&["man"])).out;
    assert!(main.contains(".TH bellwether 1") && main.contains("Exit codes"), "{main}");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().display().to_string();
    assert_eq!(run(&mut bellwether(&["man", "--dir", &path])).code, Some(0));
    let verbs = verbs();
    assert!(verbs.len() > 10, "{verbs:?}");
    for verb in &verbs {
        let page = fs::read_to_string(dir.path().join(format!("bellwether-{verb}.1"))).unwrap();
        assert!(page.contains(".SH SYNOPSIS"), "{verb}");
    }
    assert!(dir.path().join("bellwether-model-show.1").exists());
    let nowhere = run(&mut bellwether(&["man", "--dir", "/nope"]));
    assert_eq!((nowhere.code, nowhere.out.as_str()), (Some(1), ""));
}
