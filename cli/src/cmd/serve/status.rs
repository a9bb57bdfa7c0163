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

use crate::args::Global;
use crate::args::serve::Status;
use crate::exit::Exit;
use crate::output::{self, table::Table};

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
    if !status.is_success() {
        bail!("{url}: it says {status}");
    }
    let mut told: Value = serde_json::from_slice(&told).with_context(|| url.clone())?;
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
        let name = image["name"].as_str().unwrap_or_default();
        let sent = Bytes::new(image["sent_bytes"].as_u64().unwrap_or(0));
        let interface = image["interface"].as_str().unwrap_or_default();
        output::say(&format!("{name}: {sent} sent in all on {interface}"))?;
    }
    let mut table =
        Table::new(&["machine", "name", "group", "address", "what it does", "what hinders it"]);
    for row in told["machines"].as_array().into_iter().flatten() {
        let text = |name: &str| row[name].as_str().unwrap_or("-").to_owned();
        let percent = row["percent"].as_u64().map(|percent| format!(", {percent} %"));
        let percent = percent.unwrap_or_default();
        let later = row["later"].as_str().map(|at| format!("; is restored at {at}"));
        let later = later.unwrap_or_default();
        table.row([
            text("tag"),
            text("hostname"),
            text("group"),
            text("address"),
            text("stage") + &percent + &later,
            text("limit"),
        ]);
    }
    output::say(&table.render())?;
    Ok(Exit::Done)
}
