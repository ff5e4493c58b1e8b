// Runs every minute, notes each run in KV, and shows the last ones.

interface Run {
  at: string;
  cron: string;
}

interface KVNamespace {
  get<T>(key: string, type: "json"): Promise<T | null>;
  put(key: string, value: string): Promise<void>;
}

interface Env {
  RUNS: KVNamespace;
}

interface ScheduledController {
  cron: string;
  scheduledTime: number;
}

const KEY = "last-runs";
const KEPT = 10;

export default {
  async scheduled(controller: ScheduledController, env: Env): Promise<void> {
    const runs = (await env.RUNS.get<Run[]>(KEY, "json")) ?? [];
    runs.unshift({ at: new Date(controller.scheduledTime).toISOString(), cron: controller.cron });
    await env.RUNS.put(KEY, JSON.stringify(runs.slice(0, KEPT)));
    console.log(`run for ${controller.cron}`);
  },

  async fetch(_request: Request, env: Env): Promise<Response> {
    return Response.json({ runs: (await env.RUNS.get<Run[]>(KEY, "json")) ?? [] });
  },
};
