// What goes on when the client has its response: waitUntil and its limits.

//# thousands-of-promises: ok
for (let i = 0; i < 10_000; i++) ctx.waitUntil(Promise.resolve(i));

//# promises-that-never-settle: ok
for (let i = 0; i < 1_000; i++) ctx.waitUntil(new Promise(() => {}));

//# promises-without-end: cpu or memory
for (;;) ctx.waitUntil(new Promise(() => {}));

//# longer-than-it-may: ok
ctx.waitUntil(scheduler.wait(600_000));

//# one-after-the-other-without-end: ok or late cpu
const again = async () => { await scheduler.wait(20); ctx.waitUntil(again()); };
ctx.waitUntil(again());

//# rejects-in-thousands: ok or late exception
for (let i = 0; i < 1_000; i++) ctx.waitUntil(Promise.reject(new Error('on purpose')));

//# no-promise-at-all: ok
ctx.waitUntil();
ctx.waitUntil(null);
ctx.waitUntil(42);

//# hoards: late memory or late exception or late cpu
ctx.waitUntil((async () => { await scheduler.wait(5); for (;;) kept.push(new Array(1_000).fill({}).map(() => ({}))); })());

//# hoards-buffers: late memory or late exception or late cpu or ok
ctx.waitUntil((async () => { await scheduler.wait(5); for (;;) kept.push(new Uint8Array(1 << 20).fill(1)); })());

//# floods-the-internet: ok or late exception
ctx.waitUntil((async () => { for (;;) await fetch(env.ORIGIN); })());

//# waits-for-silence: ok
ctx.waitUntil(fetch(env.ORIGIN + 'silence'));

//# a-context-kept-for-later: ok
globalThis.contexts ??= [];
contexts.push(ctx);
for (const old of contexts) old.waitUntil(Promise.resolve());

//# a-context-called-on-nothing: ok
try { ctx.waitUntil.call(undefined, Promise.resolve()); return new Response('called'); } catch {}

//# a-request-kept-for-later: ok
globalThis.last ??= request;
ctx.waitUntil((async () => { await scheduler.wait(5); try { await last.text(); } catch {} })());

//# a-thenable-that-calls-back-twice: ok
ctx.waitUntil({ then(yes, no) { yes(); no(new Error('on purpose')); yes(); } });

//# leaves-a-timer-behind: ok
setTimeout(() => { for (;;); }, 3_000);

//# after-the-client-left: late canceled; leave=1
request.signal.addEventListener('abort', () => ctx.waitUntil(scheduler.wait(600_000)));
return new Response(new ReadableStream({
  async pull(controller) { controller.enqueue(new Uint8Array(1_024)); await scheduler.wait(5); },
}));
