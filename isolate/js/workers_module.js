// The module "cloudflare:workers": env outside of handlers, and the base classes of class-style entrypoints.
(function () {
const { core } = __bootstrap;
const { currentInvocation } = core.loadExtScript("ext:atoll/invocation.js");

// Filled in once, when the instance starts.
const env = {};

class WorkerEntrypoint {
  constructor(ctx, env) {
    this.ctx = ctx;
    this.env = env;
  }
}

class RpcTarget {}

function waitUntil(promise) {
  currentInvocation()?.waitUntil(promise);
}

return { env, WorkerEntrypoint, RpcTarget, waitUntil };
})();
