// A page of which the node's rules decide what it looks like (wrangler.toml). The code only reads what was decided.

const PLAIN = { title: "The plain page", button: "Buy" };

export default {
  fetch(request, env, ctx) {
    // Bots get the default, as everybody does on a node without these rules.
    const { title, button } = env.FLAGS.getObjectValue("page", PLAIN);
    const banner = env.FLAGS.getBooleanValue("banner", false) ? "<p>Willkommen!</p>" : "";
    const page = `<!doctype html><title>${title}</title>${banner}<h1>${title}</h1><button>${button}</button>\n`;
    const headers = { "content-type": "text/html; charset=utf-8", "x-variant": ctx.experiments.page?.variant ?? "-" };
    return new Response(page, { headers });
  },
};
