//! `atoll whoami`: which node, which account, and what led there.

use serde_json::json;

use super::context;
use super::error::CliError;
use super::session::Session;

pub(crate) async fn run(session: &Session) -> Result<(), CliError> {
    let target = context::target(&session.environment).await?;
    let api = target.connect(None).await?;
    let node = api.node().await?;
    let terminal = session.terminal;
    if terminal.json {
        terminal.json(&json!({
            "url": target.url,
            "source": target.source,
            "account": api.account,
            "version": node.version,
            "domain": node.domain,
        }));
        return Ok(());
    }
    terminal.line(format!("node     {} (atoll {})", target.url, node.version));
    terminal.line(format!("account  {}", api.account));
    terminal.line(format!("domain   {}", node.domain));
    terminal.line(format!("found by {}", target.source));
    Ok(())
}
