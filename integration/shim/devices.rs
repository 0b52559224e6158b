//! The shim and what others put into a bundle: a device of ours, and variables of the image.

use super::*;

/// A CDI device beside the shim: one slice, and the program is told of it, which the device alone cannot do.
#[test]
fn a_device_alone_asks_as_an_annotation_does() {
    for program in ["runc", "crun"] {
        let host = host(&format!("shim-device-{program}"), program, "[profile.web]\nports = \"31000-31001\"\n");
        let hook = |program: &str, args: &[&str]| {
            let env = [
                format!("PORTSLICE_CONFIG={}", host.config_file().display()),
                format!("PORTSLICE_STATE_DIR={}", host.state_dir().display()),
            ];
            let args = [&[program], args].concat();
            json!([{"path": host::binary(program.as_ref()), "args": args, "env": env}])
        };
        let device = json!({
            "createRuntime": hook("portslice-prestart", &["--profile", "web"]),
            "poststop": hook("portslice-poststop", &[]),
        });
        let bundle = Bundle::new(&host, "web", &["sleep", "1000"]).edit(|c| c["hooks"] = device.clone());
        let runtime = host.runtime("portslice-runtime");
        let running = runtime.start(&bundle);
        let lease = slice(program, &host);
        assert_eq!((&lease["stage"], &lease["ports"]), (&json!("attached"), &json!("31000-31001")), "{lease}");
        let said = running.exec(&["sh", "-c", LOOKS]).ok().stdout;
        assert_told(program, &host, &said, &[31_000, 31_001], &block_of(&lease));
        let edited: Value = serde_json::from_slice(&std::fs::read(bundle.dir.join("config.json")).unwrap()).unwrap();
        assert_eq!(edited["hooks"], device, "{program}: the device's own hooks are the door");
        running.delete().ok();
        assert_gone(program, &host);
    }
}

/// What a person or an image set stays, and whoever wonders why finds a line.
#[test]
fn a_variable_of_the_container_stays_and_the_log_says_so() {
    let host = host("shim-own-variable", "runc", "");
    let bundle = Bundle::new(&host, "web", &["sleep", "1000"]).annotation("portslice/ports", "31000-31001");
    let runtime = host.runtime("portslice-runtime");
    let running = runtime.start(&with_env(bundle, &["PORT0=8080", "PORT1=31001"]));
    let said = running.exec(&["sh", "-c", LOOKS]).ok().stdout;
    for line in ["PORT0=8080", "PORT1=31001", "PORTS=31000,31001"] {
        assert!(said.lines().any(|said| said == line), "no line {line:?} in:\n{said}");
    }
    let log = log(&host);
    let warned: Vec<&str> = log.lines().filter(|line| line.contains("PORT0=8080 stays")).collect();
    assert!(warned.len() == 1 && warned[0].contains("ports 31000-31001"), "{log}");
    assert!(!log.contains("PORT1="), "what says the same is no news: {log}");
    running.delete().ok();
}
