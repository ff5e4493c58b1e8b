// The module "node:async_hooks".
(function () {
const { core } = __bootstrap;
const { AsyncLocalStorage, AsyncResource } = core.loadExtScript("ext:atoll/extras.js");
return { AsyncLocalStorage, AsyncResource };
})();
