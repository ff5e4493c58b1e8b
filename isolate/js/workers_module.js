// The module "cloudflare:workers": env outside of handlers, and the base classes of class-style entrypoints.
(function () {
const { core } = __bootstrap;
const { currentInvocation, waitUntil: keepAlive } = core.loadExtScript("ext:atoll/invocation.js");

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
  const invocation = currentInvocation();
  if (invocation !== undefined) keepAlive(invocation, promise);
}

return { env, WorkerEntrypoint, RpcTarget, waitUntil };
})();
