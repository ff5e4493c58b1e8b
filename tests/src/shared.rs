//! A node that the tests of one file share: started by the first, ended with the last.

use std::ops::Deref;
use std::sync::{Arc, Weak};

use tokio::sync::Mutex;

use crate::node::{Node, NodeOptions};

/// A place for a shared node, to be a `static`. It holds the node weakly, for statics are never
/// dropped and the process would outlive the tests.
pub struct SharedNode {
    node: Mutex<Weak<Node>>,
    options: fn() -> NodeOptions,
}

impl SharedNode {
    /// A node to be started with `options`.
    pub const fn new(options: fn() -> NodeOptions) -> Self {
        Self { node: Mutex::const_new(Weak::new()), options }
    }

    /// The node that runs, or a new one. Tests must not mind what others deployed on it.
    pub async fn node(&self) -> NodeGuard {
        let mut shared = self.node.lock().await;
        if let Some(node) = shared.upgrade() {
            return NodeGuard(node);
        }
        let node = Arc::new(Node::start((self.options)()).await);
        *shared = Arc::downgrade(&node);
        NodeGuard(node)
    }
}

/// One test's hold on a shared node.
pub struct NodeGuard(Arc<Node>);

impl Deref for NodeGuard {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.0
    }
}

impl Drop for NodeGuard {
    fn drop(&mut self) {
        // The last holder shows the output by dropping the node.
        if std::thread::panicking() && Arc::strong_count(&self.0) > 1 {
            self.0.show_output();
        }
    }
}
