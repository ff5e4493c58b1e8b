// A page of which the node's rules decide what it looks like (wrangler.toml). The code only reads what was decided.

const PLAIN = { title: "The plain page", button: "Buy" };

export default {
  fetch(request, env, ctx) {
    // What comes of the page: `atoll rules status ab-rules` compares it.
    if (new URL(request.url).pathname === "/buy") {
      ctx.track("bought");
      return new Response("Thanks!\n");
    }
    // Bots get the default, as everybody does on a node without these rules.
    const { title, button } = env.FLAGS.getObjectValue("page", PLAIN);
    const banner = env.FLAGS.getBooleanValue("banner", false) ? "<p>Willkommen!</p>" : "";
    const page = `<!doctype html><title>${title}</title>${banner}<h1>${title}</h1><a href="/buy">${button}</a>\n`;
    const headers = { "content-type": "text/html; charset=utf-8", "x-variant": ctx.experiments.page?.variant ?? "-" };
    return new Response(page, { headers });
  },
};
