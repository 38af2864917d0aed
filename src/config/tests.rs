//! Loading as a whole: one test per class of mistake, the order of sources, and what happens to any bytes.

use std::io::Write;
use std::time::Duration;

use proptest::prelude::*;
use secrecy::ExposeSecret;
use tempfile::TempDir;

mod default_limit;

use super::*;
use crate::policy::PolicyId;

const TOKEN: &str = "0123456789abcdef";

/// A directory with a configuration file, and whatever else a test puts there.
struct Place(TempDir);

impl Place {
    fn with(toml: &str) -> Place {
        let place = Place(TempDir::new().expect("a directory for the test"));
        place.write("b.toml", toml.as_bytes());
        place
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        File::create(self.0.path().join(name)).and_then(|mut file| file.write_all(bytes)).expect("a file there");
    }

    fn sources(&self, env: &[(&str, &str)], flags: &[(&'static str, &'static str, &str)]) -> Sources {
        let flag = |(flag, key, value): &(&'static str, &'static str, &str)| Flag {
            flag,
            key,
            values: vec![(*value).to_owned()],
        };
        let env = Env::from_iter(env.iter().copied());
        Sources::new(Some(self.0.path().join("b.toml")), flags.iter().map(flag).collect(), env)
    }

    /// The mistakes as texts, with the directory cut off.
    fn mistakes(&self, env: &[(&str, &str)], flags: &[(&'static str, &'static str, &str)]) -> Vec<String> {
        let dir = format!("{}/", self.0.path().display());
        let errors = self.sources(env, flags).load().expect_err("there are mistakes");
        errors.iter().map(|error| error.to_string().replace(&dir, "")).collect()
    }
}

fn load(toml: &str) -> Settings {
    Place::with(toml).sources(&[], &[]).load().unwrap_or_else(|errors| panic!("{errors}")).settings
}

/// The one mistake of a file.
fn mistake(toml: &str) -> String {
    let all = Place::with(toml).mistakes(&[], &[]);
    assert_eq!(all.len(), 1, "{all:?}");
    all[0].clone()
}

#[test]
fn tls_files_are_checked_where_they_are_named() {
    let authority = crate::tls::issued::Authority::new();
    let tried = |text: &str| {
        let place = Place::with(text);
        authority.write(place.0.path(), "ca");
        authority.issue(place.0.path(), "one");
        authority.issue(place.0.path(), "two");
        place
    };
    let both = "[admin.tls]\ncertificate = \"one.pem\"\nkey = \"one.key\"\n";
    let guarded = format!("{both}client_ca = \"ca\"\n");
    for (toml, words) in [
        ("[admin.tls]\ncertificate = \"one.pem\"".to_owned(), "b.toml:2:15: admin.tls.certificate: needs its key"),
        ("[admin.tls]\nkey = \"one.key\"".to_owned(), "b.toml:2:7: admin.tls.key: needs its certificate"),
        ("[admin.tls]\nclient_ca = \"ca\"".to_owned(), "admin.tls.client_ca: clients show certificates only"),
        (both.replace("one.key", "two.key"), "b.toml:3:7: admin.tls.key: \"two.key\" is not the key"),
        (both.replace("one.pem", "none"), "b.toml:2:15: admin.tls.certificate: \"none\" cannot be read"),
        (both.replace("one.pem", "one.key"), "\"one.key\" has no certificate in PEM form"),
        (guarded.replace("\"ca\"", "\"one.key\""), "admin.tls.client_ca: \"one.key\" has no certificate"),
        (format!("{guarded}client_role = \"none\""), "admin.tls.client_role: allows nobody anything"),
        (format!("admin.listen = \"unix:/run/b\"\n{both}"), "admin.tls.certificate: a socket in the file system"),
        (format!("admin.listen = \"0.0.0.0:1\"\n{both}"), "and there is no token"),
    ] {
        let mistakes = tried(&toml).mistakes(&[], &[]);
        assert!(mistakes.len() == 1 && mistakes[0].contains(words), "{toml}: {mistakes:?}");
    }
    let place = tried(&format!("admin.listen = \"0.0.0.0:1\"\n{guarded}"));
    let settings = place.sources(&[], &[]).load().unwrap_or_else(|errors| panic!("{errors}")).settings;
    assert!(settings.admin.is_guarded() && !settings.admin.is_open());
}

#[test]
fn an_empty_file_means_the_defaults() {
    assert_eq!(changes(&load(""), &Settings::default()), []);
    assert_eq!(Settings::default().listen, "127.0.0.1:8080".parse().expect("as written above"));
    assert_eq!(Settings::default().timeouts.connect, Duration::from_secs(2));
    assert_eq!(Settings::default().limits.inspect_bytes_max, 256 * 1024);
    assert!(Settings::default().workers >= 1);
}

#[test]
fn every_class_of_mistake_says_where_what_and_what_instead() {
    for (toml, at, says) in [
        ("lisen = 1", "b.toml:1:1: lisen: ", "did you mean listen?"),
        ("metrics_public = true", "b.toml:1:1: ", "did you mean admin.metrics_public?"),
        ("\n[timeouts]\n  conect = \"1s\"", "b.toml:3:3: timeouts.conect: ", "did you mean connect?"),
        ("policy = \"lest-connections\"", "b.toml:1:10: policy: ", "did you mean \"least-connections\"?"),
        ("timeouts.connect = 2", "b.toml:1:20: timeouts.connect: 2 is an integer", "did you mean \"2s\"?"),
        ("timeouts.drain = \"1 parsec\"", "b.toml:1:18: timeouts.drain: \"1 parsec\"", "allowed: a duration"),
        ("timeouts.drain = \"8days\"", "b.toml:1:18: ", "\"8days\" is out of range"),
        ("limits.headers_max = 0", "b.toml:1:22: limits.headers_max: 0 is", "an integer from 8 to 1024"),
        ("limits.head_bytes_max = \"2MiB\"", "b.toml:1:25: ", "2MiB is out of range; allowed: a size"),
        ("limits.connections_max = 99999999999999999999", "b.toml:1:26: ", "an integer that is too large"),
        ("retry.budget = nan", "b.toml:1:16: ", "allowed: a number from 0 to 1"),
        ("log.access = \"true\"", "b.toml:1:14: ", "did you mean true without quotes?"),
        ("log.level = \"inof\"", "b.toml:1:13: ", "did you mean \"info\"?"),
        ("workers = 0", "b.toml:1:11: workers: 0 is", "\"auto\""),
        ("listen = 1979-05-27", "b.toml:1:10: listen: the value is a date", "allowed: IP:PORT"),
        ("[node]\nurl = \"http://h\"", "b.toml:1:1: node: the value is a table", "did you mean [[node]]?"),
        ("[[node]]\nname = \"a\"", "b.toml:1:1: node[0]: has no url", "http://"),
        ("[[node]]\nurl = \"h:1\"", "b.toml:2:7: node[0].url: ", "did you mean \"http://h:1\"?"),
        ("[[node]]\nurl = \"https://h\"", "b.toml:2:7: node[0].url: ", "not supported yet"),
        ("[[node]]\nurl = \"http://h\"\nweight = 0", "b.toml:3:10: node[0].weight: 0 is", "above 0 and at most 1000"),
        ("[[node]]\nurl = \"http://h\"\nmax_in_flight = 70000", "b.toml:3:17: ", "from 1 to 60000"),
        ("[[route]]\nmethod = \"post\"", "b.toml:2:10: ", "did you mean \"POST\"?"),
        ("[[route]]\npath_prefix = \"v1\"", "b.toml:2:15: ", "did you mean \"/v1\"?"),
        ("[[route]]\ntimeouts = {idle = \"1s\"}", "b.toml:2:13: route[0].timeouts.idle: unknown key", "connect"),
        ("forward.trusted_proxies = [\"10.0.0.0/33\"]", "b.toml:1:28: forward.trusted_proxies[0]: ", "a network"),
        ("admin.listen = \"0.0.0.0:1\"", "b.toml:1:16: admin.listen: ", "[[admin.token]]"),
        ("admin.listen = \"127.0.0.1:8080\"", "b.toml:1:16: admin.listen: ", "where clients connect"),
        ("limits.head_bytes_max = 2000", "b.toml:1:1: limits.uri_bytes_max: ", "at most limits.head_bytes_max"),
        ("[[node]]\nurl = \"http://localhost:8080\"", "b.toml:2:7: node[0].url: ", "this proxy itself"),
        ("[[admin.token]]\nrole = \"read\"", "b.toml:1:1: admin.token[0]: ", "exactly one of file and env"),
        ("[[admin.token]]\nenv = \"NOPE\"", "b.toml:2:7: admin.token[0].env: ", "NOPE is not set"),
        ("[[admin.token]]\nfile = \"nope\"", "b.toml:2:8: admin.token[0].file: ", "cannot be read"),
        ("listen = ", "b.toml:1:10: not TOML: ", ""),
    ] {
        let text = mistake(toml);
        assert!(text.starts_with(at) && text.contains(says), "{toml:?}\n  gave {text:?}");
    }
}

#[test]
fn no_node_is_called_what_metrics_call_the_proxy_itself() {
    for toml in ["[[node]]\nurl = \"http://none\"\n", "[[node]]\nname = \"none\"\nurl = \"http://a\"\n"] {
        let said = mistake(toml);
        assert!(said.starts_with("b.toml:2:") && said.contains("\"none\" is what metrics call"), "{said}");
    }
}

#[test]
fn all_mistakes_are_found_at_once_and_in_order() {
    let place = Place::with(
        "policy = \"x\"\n\n[[node]]\nurl = \"http://a\"\nweight = -1\n[[node]]\nurl = \"http://a\"\n[[node]]\n\
         name = \"c\"\n[[node]]\nurl = \"http://a\"\n[limits]\nfoo = 1\n",
    );
    let all = place.mistakes(&[("BELLWETHER_WORKERS", "many"), ("BELLWETHER_X", "1")], &[("--listen", "listen", "y")]);
    let starts = [
        "b.toml:1:10: policy: ",
        "b.toml:5:10: node[0].weight: ",
        "b.toml:7:7: node[1].url: \"a\" is already the name of node[0] (",
        "b.toml:8:1: node[2]: has no url",
        "b.toml:11:7: node[3].url: \"a\" is already the name of node[0] (",
        "b.toml:13:1: limits.foo: ",
        "environment BELLWETHER_WORKERS: workers: ",
        "environment BELLWETHER_X: unknown variable",
        "flag --listen: listen: ",
    ];
    assert_eq!(all.len(), starts.len(), "{all:#?}");
    for (text, start) in all.iter().zip(starts) {
        assert!(text.starts_with(start), "{text:?} {start:?}");
    }
}

#[test]
fn what_is_wrong_with_one_key_is_not_blamed_on_another() {
    // A token that was cut out is not a missing one; an address that cannot be read does not meet the default.
    assert!(mistake("[admin]\nlisten = \"0.0.0.0:1\"\n[[admin.token]]\nenv = 1").contains("admin.token[0].env"));
    assert!(mistake("listen = \"x\"\nadmin.listen = \"127.0.0.1:8080\"").starts_with("b.toml:1:10"));
    assert!(mistake("[[route]]\nmethod = 1\n[[route]]\nmethod = \"POST\"").starts_with("b.toml:2:10"));
}

#[test]
fn a_flag_counts_before_the_environment_before_the_file_before_the_default() {
    let place = Place::with("policy = \"random\"\nworkers = 1\n[timeouts]\nconnect = \"1s\"\nidle = \"7s\"\n");
    let env = [("BELLWETHER_POLICY", "ip-hash"), ("BELLWETHER_WORKERS", "2"), ("BELLWETHER_TIMEOUTS_CONNECT", "3s")];
    let loaded = place.sources(&env, &[("--policy", "policy", "round-robin")]).load().expect("as written above");
    let settings = &loaded.settings;
    assert_eq!(settings.policy, PolicyId::named("round-robin").expect("as written above"));
    assert_eq!(settings.workers, 2);
    assert_eq!(settings.timeouts.connect, Duration::from_secs(3));
    assert_eq!(settings.timeouts.idle, Duration::from_secs(7));
    assert_eq!(settings.timeouts.drain, Settings::default().timeouts.drain);
    let origin = |path: &str| loaded.origins.get(path).to_string();
    assert_eq!(origin("policy"), "flag --policy");
    assert_eq!(origin("workers"), "environment BELLWETHER_WORKERS");
    assert_eq!(origin("timeouts.connect"), "environment BELLWETHER_TIMEOUTS_CONNECT");
    assert!(origin("timeouts.idle").ends_with("b.toml:5:8"));
    assert_eq!(origin("timeouts.drain"), "default");
    let summary = loaded.origins.summary();
    assert!(
        summary.starts_with("--policy, BELLWETHER_POLICY") || summary.starts_with("--policy, BELLWETHER_T"),
        "{summary}"
    );
}

#[test]
fn the_environment_can_set_lists_and_switch_things_off() {
    let place = Place::with("timeouts.total = \"1s\"\n[[node]]\nurl = \"http://of-the-file\"\n");
    let env = [
        ("BELLWETHER_NODE", "a=http://h:1@2, http://h:2"),
        ("BELLWETHER_ROUTE", r#"[{"path_prefix": "/v1", "timeouts": {"total": "9s"}}]"#),
        ("BELLWETHER_FORWARD_TRUSTED_PROXIES", "10.0.0.0/8,192.0.2.1"),
        ("BELLWETHER_TIMEOUTS_TOTAL", "off"),
        ("BELLWETHER_LOG_ACCESS", "false"),
        ("BELLWETHER_RETRY_BUDGET", "1"),
        ("BELLWETHER_LIMITS_BODY_BYTES_MAX", "1000"),
        ("BELLWETHER_LISTEN", ""),
    ];
    let settings = place.sources(&env, &[]).load().unwrap_or_else(|errors| panic!("{errors}")).settings;
    let expected = [NodeSpec { weight: 2.0, ..NodeSpec::new("http://h:1").named("a") }, NodeSpec::new("http://h:2")];
    assert_eq!(settings.nodes, expected);
    assert_eq!(settings.routes[0].timeouts.total, Some(Duration::from_secs(9)));
    assert_eq!(settings.forward.trusted_proxies.len(), 2);
    assert_eq!((settings.timeouts.total, settings.log.access, settings.retry.budget), (None, false, 1.0));
    assert_eq!(settings.limits.body_bytes_max, Some(1000));
    assert_eq!(settings.listen, Settings::default().listen, "an empty variable sets nothing");
}

#[test]
fn tokens_come_from_files_and_variables_and_never_out_again() {
    let place = Place::with(
        "[admin]\nlisten = \"0.0.0.0:1\"\n[[admin.token]]\nfile = \"t\"\nrole = \"operate\"\n\
         [[admin.token]]\nenv = \"BELLWETHER_ADMIN_TOKEN\"\n",
    );
    place.write("t", format!("\n  {TOKEN}\n").as_bytes());
    let other = "fedcba9876543210";
    let sources = place.sources(&[("BELLWETHER_ADMIN_TOKEN", other)], &[]);
    let loaded = sources.load().unwrap_or_else(|errors| panic!("{errors}"));
    let tokens: Vec<_> = loaded.settings.admin.tokens.iter().map(|t| (t.secret.expose_secret(), t.role)).collect();
    assert_eq!(tokens, [(TOKEN, Role::Operate), (other, Role::Read)]);
    let shown =
        format!("{loaded:?} {sources:?} {} {} {}", loaded.to_toml(), loaded.to_json(), loaded.settings.to_json());
    assert!(!shown.contains(TOKEN) && !shown.contains(other), "{shown}");
    assert!(loaded.to_toml().contains("env = \"BELLWETHER_ADMIN_TOKEN\""));
}

#[test]
fn a_mistake_with_a_token_does_not_show_it() {
    let secret = "s3cr3t";
    for (toml, env) in [
        ("admin.token = \"s3cr3t\"", ""),
        ("[[admin.token]]\nenv = \"s3cr3t\"", ""),
        ("[[admin.token]]\nsecret = \"s3cr3t\"\nenv = \"T\"", "0123456789abcdef"),
        ("[[admin.token]]\nenv = \"T\"", secret),
        ("[[admin.token]]\nenv = \"T\"", "s3cr3t with spaces in it"),
        ("[[admin.token]]\nenv = [\"s3cr3t\"]", ""),
    ] {
        let all = Place::with(toml).mistakes(&[("T", env)], &[]);
        assert!(!all.join("\n").contains(secret), "{all:?}");
    }
    for text in [secret, "[{\"secret\": \"s3cr3t\"}]", "[\"s3cr3t\"]", "[s3cr3t]"] {
        let all = Place::with("").mistakes(&[("BELLWETHER_ADMIN_TOKEN", text)], &[]);
        assert!(!all.join("\n").contains(secret), "{all:?}");
    }
}

#[test]
fn the_same_token_twice_is_refused() {
    let place = Place::with("[[admin.token]]\nenv = \"A\"\n[[admin.token]]\nenv = \"B\"\nrole = \"operate\"\n");
    let all = place.mistakes(&[("A", TOKEN), ("B", TOKEN)], &[]);
    assert!(all.len() == 1 && all[0].starts_with("b.toml:3:1: admin.token[1]: the same token"), "{all:?}");
}

#[test]
fn routes_keep_the_order_of_the_file_and_hidden_ones_are_refused() {
    let settings = load(
        "timeouts.connect = \"5s\"\n[[route]]\npath_prefix = \"/v1/chat\"\ntimeouts = {total = \"9s\"}\n\
         [[route]]\npath_prefix = \"/v1\"\nmethod = \"POST\"\n[[route]]\npath_prefix = \"/v1\"\n[[route]]\n",
    );
    let names: Vec<&str> = settings.routes.iter().map(|route| route.name.as_str()).collect();
    assert_eq!(names, ["/v1/chat", "/v1", "/v1", "/"]);
    let own = &settings.routes[0].timeouts;
    assert_eq!((own.total, own.connect), (Some(Duration::from_secs(9)), Duration::from_secs(5)));
    let hidden = mistake("[[route]]\npath_prefix = \"/v1/\"\n[[route]]\npath_prefix = \"/v1/chat\"\nmodel = \"m\"\n");
    assert!(hidden.starts_with("b.toml:3:1: route[1]: never matches: route[0] ("), "{hidden}");
    assert_eq!(load("[[route]]\npath_prefix = \"/v1/\"\n").routes[0].path_prefix, "/v1");
    // Not below it, though it begins with the same letters.
    load("[[route]]\npath_prefix = \"/v1\"\n[[route]]\npath_prefix = \"/v10\"\n");
}

#[test]
fn a_fleet_has_a_bound() {
    let toml: String = (0..4097).map(|i| format!("[[node]]\nurl = \"http://h:{}\"\n", i + 1)).collect();
    assert!(mistake(&toml).contains("has 4097 entries; allowed: at most 4096"));
}

#[test]
fn a_file_that_cannot_be_read_says_so() {
    let place = Place::with("");
    place.write("b.toml", b"a = \"\n\xff\"");
    assert_eq!(place.mistakes(&[], &[]), ["b.toml:2:1: not UTF-8"]);
    let missing = Sources::new(Some(place.0.path().join("missing.toml")), Vec::new(), Env::default());
    assert!(missing.load().expect_err("missing").to_string().contains("missing.toml: cannot be read: "));
    let named = Sources::new(None, Vec::new(), Env::from_iter([(FILE_VARIABLE, "/nope/x.toml")]));
    assert!(named.load().expect_err("missing").to_string().starts_with("/nope/x.toml: "));
}

#[test]
fn what_is_printed_is_a_configuration_of_the_same_settings() {
    let text = "policy = \"random\"\nworkers = 3\nhealth.path = \"/h\"\nlimits.body_bytes_max = 7\n\
        [[node]]\nurl = \"http://h:1\"\nmodels = [\"a # b\", \"c = d\"]\nweight = 0.5\n[[node]]\nurl = \"http://h:2\"\n\
        [[route]]\npath_prefix = \"/a\"\n[[route]]\nmethod = \"GET\"\ntimeouts = {first_byte = \"1s\"}\n";
    let loaded = Place::with(text).sources(&[], &[]).load().expect("as written above");
    let printed = loaded.to_toml();
    let again = load(&printed);
    assert_eq!(changes(&loaded.settings, &again), [], "{printed}");
    let line = printed.lines().find(|line| line.starts_with("first_byte = \"1s\"")).expect("as written above");
    assert!(line.ends_with("b.toml:15:26"), "{line}");
    assert_eq!(changes(&load(&toml::to_string(&Raw::default()).expect("as written above")), &Settings::default()), []);
}

#[test]
fn a_node_of_the_admin_api_is_checked_like_one_of_the_file() {
    let good =
        check_node(serde_json::json!({"url": "http://h:1/", "weight": 2}), MaxInFlight::Off).expect("as written above");
    assert_eq!(good, NodeSpec { weight: 2.0, ..NodeSpec::new("http://h:1") });
    let bad = check_node(serde_json::json!({"url": "h:1", "wieght": 2}), MaxInFlight::Off);
    let bad = bad.expect_err("two mistakes").to_string();
    assert_eq!(bad.lines().count(), 2, "{bad}");
    assert!(bad.contains("url: \"h:1\" has no scheme") && bad.contains("did you mean weight?"), "{bad}");
    assert!(check_node(serde_json::json!("x"), MaxInFlight::Off).is_err());
}

/// Fragments that lead random texts deep into the checks.
fn fragment() -> impl Strategy<Value = String> {
    let keys = "(listen|policy|workers|node|route|admin|token|url|name|weight|models|timeouts|total|limits|x)";
    let regex =
        |pattern: &str| proptest::string::string_regex(&pattern.replace("KEY", keys)).expect("as written above");
    prop_oneof![
        regex("\\PC{0,12}"),
        regex("\\[KEY\\]\n"),
        regex("\\[\\[KEY(\\.KEY)?\\]\\]\n"),
        regex("KEY = (\"\\PC{0,9}\"|[0-9]{1,20}|\\[\\]|\\{\\}|true|-?[0-9]\\.[0-9]|nan|inf|0x[0-9a-f]{1,9})\n"),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_bytes_as_a_file_give_settings_or_mistakes(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(tree) = parse("f", &bytes) {
            survives(tree);
        }
    }

    #[test]
    fn any_text_that_looks_like_a_file_gives_settings_or_mistakes(parts in proptest::collection::vec(fragment(), 0..12)) {
        if let Ok(tree) = parse("f", parts.concat().as_bytes()) {
            survives(tree);
        }
    }

    #[test]
    fn any_value_of_any_variable_gives_settings_or_mistakes(at in 0usize..64, text in "\\PC{0,40}|\\[\\PC{0,20}\\]") {
        let variables = sources::variables();
        let name = variables.keys().nth(at % variables.len()).cloned().unwrap_or_default();
        let sources = Sources { env: Env::from_iter([(name, text)]), ..Sources::default() };
        let _ = sources.load().map_err(|errors| errors.to_string());
    }
}

/// What the walk leaves over must always deserialize.
fn survives(tree: Tree) {
    let mut errors = Vec::new();
    if let Some(sound) = walk::sound(tree, schema(), &mut errors) {
        let raw: Raw = serde_json::from_value(sound.to_json()).expect("as written above");
        let origins = Origins::of(&sound);
        let env = Env::default();
        Check { origins: &origins, env: &env, dir: PathBuf::from("/nonexistent"), errors }.settings(&raw);
    }
}
