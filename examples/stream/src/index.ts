// Streams without buffering: /events is a stream of server-sent events, /proxy passes a stream on
// while it counts the bytes, /echo returns what is sent as it arrives.

interface Env {
  UPSTREAM: string;
}

const PAGE = `<!doctype html>
<title>stream</title>
<h1>Server-sent events</h1>
<ol id="list"></ol>
<script>
  const source = new EventSource("/events?count=20");
  source.onmessage = (event) => {
    const item = document.createElement("li");
    item.textContent = event.data;
    document.getElementById("list").append(item);
  };
  source.onerror = () => source.close();
</script>
`;

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** One event every interval, until the count is reached or the client leaves. */
function events(request: Request): Response {
  const query = new URL(request.url).searchParams;
  const count = Math.min(Number(query.get("count") ?? 5), 1000);
  const interval = Math.min(Number(query.get("interval") ?? 200), 5000);
  const encoder = new TextEncoder();
  let sent = 0;
  const body = new ReadableStream<Uint8Array>({
    async pull(controller) {
      if (sent >= count) return controller.close();
      if (sent > 0) await pause(interval);
      sent += 1;
      const data = JSON.stringify({ event: sent, at: new Date().toISOString() });
      controller.enqueue(encoder.encode(`id: ${sent}\ndata: ${data}\n\n`));
    },
    cancel() {
      console.log(`the client left after ${sent} events`);
    },
  });
  return new Response(body, {
    headers: { "content-type": "text/event-stream", "cache-control": "no-store" },
  });
}

/** Passes a stream on, and logs how much it was when it ends. */
function counted(upstream: Response): Response {
  let bytes = 0;
  const counter = new TransformStream<Uint8Array, Uint8Array>({
    transform(chunk, controller) {
      bytes += chunk.byteLength;
      controller.enqueue(chunk);
    },
    flush() {
      console.log(`passed on ${bytes} bytes`);
    },
  });
  const response = new Response(upstream.body?.pipeThrough(counter) ?? null, upstream);
  response.headers.set("x-proxied-by", "stream");
  return response;
}

export default {
  async fetch(request: Request, env: Env): Promise<Response> {
    const { pathname } = new URL(request.url);
    switch (pathname) {
      case "/":
        return new Response(PAGE, { headers: { "content-type": "text/html; charset=utf-8" } });
      case "/events":
        return events(request);
      case "/proxy":
        return counted(env.UPSTREAM ? await fetch(env.UPSTREAM) : events(request));
      case "/echo":
        return new Response(request.body, {
          headers: { "content-type": "application/octet-stream" },
        });
      default:
        return new Response("there is /, /events, /proxy and /echo\n", { status: 404 });
    }
  },
};
