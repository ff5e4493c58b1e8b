// Splits visitors between two variants of a page. A cookie keeps everyone on theirs, and the page
// is rewritten while it streams through, piece by piece.

const COOKIE = "variant";

const TEXTS = {
  a: { "{{title}}": "The plain page", "{{button}}": "Buy" },
  b: { "{{title}}": "The bold page", "{{button}}": "Buy now and smile" },
};

/** The variant that the visitor's cookie names, if any. */
function assigned(request) {
  const match = (request.headers.get("cookie") ?? "").match(/(?:^|;\s*)variant=([ab])(?:;|$)/);
  return match?.[1];
}

/** A stand-in for an origin server: the page in small pieces, cut without regard to its marks. */
function origin() {
  const page =
    "<!doctype html><title>{{title}}</title><h1>{{title}}</h1><button>{{button}}</button>\n";
  const bytes = new TextEncoder().encode(page);
  let at = 0;
  const body = new ReadableStream({
    pull(controller) {
      if (at >= bytes.length) return controller.close();
      controller.enqueue(bytes.slice(at, (at += 7)));
    },
  });
  return new Response(body, { headers: { "content-type": "text/html; charset=utf-8" } });
}

/** Replaces marks in a stream of text, also those that arrive in two pieces. */
function rewriter(replacements) {
  const marks = Object.keys(replacements);
  const longest = Math.max(...marks.map((mark) => mark.length));
  let held = "";
  const replace = (text) =>
    marks.reduce((result, mark) => result.replaceAll(mark, replacements[mark]), text);
  return new TransformStream({
    transform(chunk, controller) {
      held = replace(held + chunk);
      // A mark may have begun in the last characters: they wait for the next piece.
      const begun = held.lastIndexOf("{{");
      const safe = begun >= 0 && held.length - begun < longest ? begun : held.length;
      const cut = safe > 0 && held[safe - 1] === "{" ? safe - 1 : safe;
      if (cut > 0) controller.enqueue(held.slice(0, cut));
      held = held.slice(cut);
    },
    flush(controller) {
      if (held) controller.enqueue(held);
    },
  });
}

export default {
  async fetch(request, env) {
    const known = assigned(request);
    const variant = known ?? (Math.random() * 100 < env.PERCENT_B ? "b" : "a");
    const page = origin();
    const body = page.body
      .pipeThrough(new TextDecoderStream())
      .pipeThrough(rewriter(TEXTS[variant]))
      .pipeThrough(new TextEncoderStream());
    const response = new Response(body, page);
    response.headers.set("x-variant", variant);
    if (!known) {
      response.headers.append("set-cookie", `${COOKIE}=${variant}; Path=/; Max-Age=604800`);
    }
    return response;
  },
};
