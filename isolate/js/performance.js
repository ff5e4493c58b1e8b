// Deno's `performance`, which wants to be told the origin of its time. Loaded late.
(function () {
const { core } = __bootstrap;
const { Performance, performance, setTimeOrigin } = core.loadExtScript("ext:deno_web/15_performance.js");
setTimeOrigin();
return { Performance, performance };
})();
