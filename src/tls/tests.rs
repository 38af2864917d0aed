//! Both ends with each other, without sockets.

use super::issued::Authority;
use super::*;

fn server(files: &[std::path::PathBuf; 2], clients: Option<&Authorities>) -> Result<ServerTls, TlsError> {
    ServerTls::new(certificates(&files[0])?, private_key(&files[1])?, clients)
}

fn client(ca: &Path, files: Option<&[std::path::PathBuf; 2]>) -> Result<ClientTls, TlsError> {
    let identity = files.map(|files| Ok::<_, TlsError>((certificates(&files[0])?, private_key(&files[1])?)));
    ClientTls::new(&Authorities::of(ca)?, identity.transpose()?)
}

/// What each end makes of a handshake with the other.
async fn meet(server: &ServerTls, client: &ClientTls, host: &str) -> (io::Result<Option<Certified>>, io::Result<()>) {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let accepting = async { server.accept(ours).await.map(|(_, certified)| certified) };
    let connecting = async { client.connect(host, theirs).await.map(drop) };
    tokio::join!(accepting, connecting)
}

#[tokio::test]
async fn each_end_trusts_only_what_it_was_told_to_trust() {
    let dir = tempfile::tempdir().expect("a directory");
    let (ours, other) = (Authority::new(), Authority::new());
    let [ours_ca, other_ca] = [ours.write(dir.path(), "ours"), other.write(dir.path(), "other")];
    let listener = ours.issue(dir.path(), "listener");
    let [good, bad] = [ours.issue(dir.path(), "good"), other.issue(dir.path(), "bad")];
    let authorities = Authorities::of(&ours_ca).expect("authorities");
    let server = server(&listener, Some(&authorities)).expect("they fit");
    let known = client(&ours_ca, Some(&good)).expect("they fit");
    let (accepted, connected) = meet(&server, &known, "localhost").await;
    connected.expect("it is trusted");
    let certified = accepted.expect("it is trusted").expect("it has shown one");
    assert_eq!(Some(&certified.authorities), server.authorities());
    let shown = Fingerprint::of(&certificates(&good[0]).expect("one")[0]);
    assert_eq!((certified.certificate, shown.to_string().len()), (shown, 64));
    for (stranger, host) in [
        (client(&ours_ca, None), "localhost"),
        (client(&ours_ca, Some(&bad)), "localhost"),
        (client(&other_ca, Some(&good)), "localhost"),
        (client(&ours_ca, Some(&good)), "other.example"),
        (client(&ours_ca, Some(&good)), "127.0.0.2"),
        (client(&ours_ca, Some(&good)), "not a host"),
    ] {
        let (accepted, _) = meet(&server, &stranger.expect("they fit"), host).await;
        assert!(accepted.is_err(), "{host}");
    }
}

#[tokio::test]
async fn without_authorities_no_certificate_is_asked_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let authority = Authority::new();
    let server = server(&authority.issue(dir.path(), "listener"), None).expect("they fit");
    let anybody = client(&authority.write(dir.path(), "ca"), None).expect("they fit");
    let (accepted, connected) = meet(&server, &anybody, "127.0.0.1").await;
    assert!(connected.is_ok() && accepted.is_ok_and(|certified| certified.is_none()));
}

#[test]
fn files_that_are_no_good_are_told_apart_and_not_shown() {
    let dir = tempfile::tempdir().expect("a directory");
    let authority = Authority::new();
    let [one, two] = ["one", "two"].map(|name| authority.issue(dir.path(), name));
    let crossed = server(&[one[0].clone(), two[1].clone()], None).expect_err("another key");
    assert!(matches!(crossed, TlsError::OtherKey), "{crossed:?}");
    assert!(matches!(certificates(&one[1]), Err(TlsError::Nothing("certificate"))));
    assert!(matches!(private_key(&one[0]), Err(TlsError::Nothing("private key"))));
    assert!(matches!(Authorities::of(&dir.path().join("absent")), Err(TlsError::Unreadable(_))));
    let secret = std::fs::read_to_string(&one[1]).expect("a key");
    let broken = dir.path().join("broken");
    std::fs::write(&broken, secret.replace("PRIVATE KEY", "CERTIFICATE")).expect("written");
    let unusable = server(&[broken.clone(), one[1].clone()], None).expect_err("no certificate");
    let unfit = Authorities::of(&broken).expect_err("no certificate");
    let body = secret.lines().nth(1).expect("a line of the key");
    let shown = format!("{unusable} {unusable:?} {unfit} {unfit:?} {:?}", server(&one, None));
    assert!(!shown.contains(body) && shown.contains("cannot be used"), "{shown}");
}
