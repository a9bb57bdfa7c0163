//! `keiki serve status`: how far the machines are.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use image_core::units::Bytes;
use netboot::interface;
use netboot::orders::door::code_of;
use netboot::orders::order::SiteKey;
use netboot::orders::site::{KEY, token_of};
use serde_json::Value;
use ureq::Agent;
use ureq::http::StatusCode;

use crate::args::Global;
use crate::args::serve::Status;
use crate::exit::Exit;
use crate::output::{self, progress::clock, table::Table};

/// Runs the verb.
///
/// # Errors
/// No server runs, or its token cannot be read.
pub fn run(global: &Global, args: &Status) -> Result<Exit> {
    let token = token_of(&args.state)?;
    let token = token.with_context(|| format!("no site is kept in {}", args.state.display()))?;
    let address = interface::choose(args.interface.as_deref())?.address;
    let url = match &args.group {
        Some(group) => format!("http://{address}/api/groups/{}", group.name()),
        None => format!("http://{address}/api/machines"),
    };
    let config = Agent::config_builder()
        .timeout_global(Some(Duration::from_secs(10)))
        .http_status_as_error(false)
        .proxy(None);
    let agent: Agent = config.build().into();
    let asked = agent.get(&url).header("Authorization", format!("Bearer {token}")).call();
    let mut answer = asked.with_context(|| {
        format!("no `keiki serve` answers at {url}; where it runs, it is still starting")
    })?;
    let status = answer.status();
    let told = answer
        .body_mut()
        .with_config()
        .limit(64 << 20)
        .read_to_vec()
        .with_context(|| url.clone())?;
    let told: serde_json::Result<Value> = serde_json::from_slice(&told);
    if !status.is_success() {
        let why = told.ok().and_then(|told| told["error"].as_str().map(str::to_owned));
        match why {
            _ if status == StatusCode::UNAUTHORIZED => bail!(
                "{url}: another site is served there than the one in {}; name its folder with --state",
                args.state.display()
            ),
            Some(why) => bail!("{url}: {why}"),
            None => bail!("{url}: it says {status}"),
        }
    }
    let mut told = told.with_context(|| url.clone())?;
    let file = args.state.join(KEY);
    let key = SiteKey::read(&file)?.with_context(|| format!("{} is missing", file.display()))?;
    let (page, key) = (super::board_at(address, Some(&token)), key.public());
    let code = code_of(&args.state)?;
    if global.json {
        told["code"] = code.into();
        told["board"] = page.into();
        told["site_key"] = key.into();
        output::json(&told)?;
        return Ok(Exit::Done);
    }
    output::say(&format!("{page}\nthe key of this site: {key}"))?;
    if let Some(code) = code {
        output::say(&format!("the code of its repository, where that is private: {code}"))?;
    }
    for image in told["sent"].as_array().into_iter().flatten() {
        output::say(&sent(image))?;
    }
    let mut table =
        Table::new(&["machine", "name", "group", "address", "what it does", "what hinders it"]);
    for row in told["machines"].as_array().into_iter().flatten() {
        let text = |name: &str| row[name].as_str().unwrap_or("-").to_owned();
        let later = row["later"].as_str().map(|at| format!("; is restored at {at}"));
        let later = later.unwrap_or_default();
        table.row([
            text("tag"),
            text("hostname"),
            text("group"),
            text("address"),
            text("stage") + &figures(row) + &later,
            text("limit"),
        ]);
    }
    output::say(&table.render())?;
    Ok(Exit::Done)
}

/// `lab@1 on eth1: 2 MiB/s of 3 MiB/s to 2 machines; 14 MiB sent in all, 1.02 times the image`.
fn sent(image: &Value) -> String {
    let text = |name: &str| image[name].as_str().unwrap_or_default();
    let bytes = |name: &str| Bytes::new(image[name].as_u64().unwrap_or(0));
    let machines = match image["receivers"].as_u64().unwrap_or(0) {
        0 => "nobody receives it now".to_owned(),
        count => {
            let [now, pace] = ["bytes_per_second", "pace_bytes_per_second"].map(bytes);
            let s = if count == 1 { "" } else { "s" };
            format!("{now}/s of {pace}/s to {count} machine{s}")
        }
    };
    let passes = image["passes"].as_f64().unwrap_or(0.0);
    let all = match bytes("sent_bytes") {
        Bytes::ZERO => "nothing was sent yet".to_owned(),
        sent => format!("{sent} sent in all, {passes:.2} times the image"),
    };
    format!("{} on {}: {machines}; {all}", text("name"), text("interface"))
}

/// `, 37 %, 2 MiB/s, 0:12 left`; less where less is known.
fn figures(row: &Value) -> String {
    let number = |name: &str| row[name].as_u64();
    let percent = number("percent").map(|percent| format!("{percent} %"));
    let rate = number("bytes_per_second").map(|rate| format!("{}/s", Bytes::new(rate)));
    let left = number("seconds_left").map(|left| format!("{} left", clock(left)));
    [percent, rate, left].into_iter().flatten().map(|figure| format!(", {figure}")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{figures, sent};

    #[test]
    fn figures_say_what_is_known() {
        let row = |rate: Option<u64>, left: Option<u64>| {
            figures(&json!({"percent": 37, "bytes_per_second": rate, "seconds_left": left}))
        };
        assert_eq!(row(Some(2 << 20), Some(72)), ", 37 %, 2 MiB/s, 1:12 left");
        assert_eq!((row(None, None).as_str(), figures(&json!({})).as_str()), (", 37 %", ""));
        let mut image = json!({"name": "lab@1", "interface": "eth1", "sent_bytes": 3 << 20, "passes": 1.017,
            "bytes_per_second": 1 << 20, "pace_bytes_per_second": 2 << 20, "receivers": 1});
        let told = "lab@1 on eth1: 1 MiB/s of 2 MiB/s to 1 machine; 3 MiB sent in all, 1.02 times the image";
        assert_eq!(sent(&image), told);
        image["receivers"] = 0.into();
        assert!(sent(&image).contains("nobody receives it now; 3 MiB sent"));
        image["sent_bytes"] = 0.into();
        assert_eq!(sent(&image), "lab@1 on eth1: nobody receives it now; nothing was sent yet");
    }
}
