import { Hono } from "hono";
import { logger } from "hono/logger";
import { jwt, sign } from "hono/jwt";

type Bindings = { JWT_SECRET: string };
type Variables = { jwtPayload: { sub: string } };

const app = new Hono<{ Bindings: Bindings; Variables: Variables }>();

app.use(logger());

app.get("/", (c) => c.text("POST /login with a name, then GET /api/me with the token\n"));

app.post("/login", async (c) => {
  const { name } = await c.req.json<{ name?: string }>();
  if (!name) return c.json({ error: "name is missing" }, 400);
  const exp = Math.floor(Date.now() / 1000) + 3600;
  const token = await sign({ sub: name, exp }, c.env.JWT_SECRET, "HS256");
  return c.json({ token });
});

app.use("/api/*", (c, next) => jwt({ secret: c.env.JWT_SECRET, alg: "HS256" })(c, next));

app.get("/api/me", (c) => c.json({ you: c.get("jwtPayload").sub }));

export default app;
