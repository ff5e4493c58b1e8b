/// <reference no-default-lib="true" />
/// <reference lib="es2024" />
/// <reference lib="webworker" />
/// <reference lib="webworker.iterable" />

/** What surrounds one invocation. */
interface ExecutionContext<Props = unknown> {
  /** Keeps work going after the response. */
  waitUntil(promise: Promise<unknown>): void;
  passThroughOnException(): void;
  readonly props: Props;
  /** What rules decided about the request, by rule. */
  readonly experiments: Readonly<Record<string, ExperimentDetails>>;
  /** Tells what the request's unit did, for the experiments that it is in. */
  track(metric: string, value?: number): void;
}

/** What a `rule` handler decides: what a variant of a declared rule may do. */
interface RuleDecision {
  /** A name for it; `on` unless it says so. */
  readonly variant?: string;
  readonly value?: unknown;
  readonly variables?: Record<string, unknown>;
  /** This version of the worker answers. */
  readonly version?: string;
  /** Another worker of the account answers. */
  readonly worker?: string;
  /** The worker sees this path. */
  readonly rewrite?: string;
  readonly redirect?: string | { readonly location: string; readonly status?: 301 | 302 | 303 | 307 | 308 };
  /** `false` removes a header. */
  readonly request_headers?: Record<string, string | false>;
  readonly response_headers?: Record<string, string | false>;
}

/** What a rule decided. */
interface ExperimentDetails<T = unknown> {
  readonly value: T;
  readonly variant: string;
  readonly reason: string;
}

/** The details of one evaluation, as OpenFeature has them. */
interface EvaluationDetails<T> {
  readonly flagKey: string;
  readonly value: T;
  /** Absent when the rule did not decide. */
  readonly variant?: string;
  /** `STATIC`, `TARGETING_MATCH`, `SPLIT`, `PREVIEW`, `ROLLED_BACK`, `DEFAULT`, `DISABLED` or `ERROR`. */
  readonly reason: string;
  /** `FLAG_NOT_FOUND`, `TYPE_MISMATCH`, or `GENERAL` of a script that failed. */
  readonly errorCode?: string;
  readonly errorMessage?: string;
  readonly flagMetadata: Record<string, unknown>;
}

/** `env.FLAGS`: what rules decided about the request under way. Name it in the worker's `Env`. */
interface Flags {
  getBooleanValue(rule: string, defaultValue: boolean): boolean;
  getStringValue(rule: string, defaultValue: string): string;
  getNumberValue(rule: string, defaultValue: number): number;
  getObjectValue<T extends object>(rule: string, defaultValue: T): T;
  getBooleanDetails(rule: string, defaultValue: boolean): EvaluationDetails<boolean>;
  getStringDetails(rule: string, defaultValue: string): EvaluationDetails<string>;
  getNumberDetails(rule: string, defaultValue: number): EvaluationDetails<number>;
  getObjectDetails<T extends object>(rule: string, defaultValue: T): EvaluationDetails<T>;
  get<T = unknown>(rule: string, defaultValue: T): T;
  /** The variables of all variants that were given. */
  readonly variables: Readonly<Record<string, unknown>>;
}

/** What the node knows of a request's client and connection. */
interface IncomingRequestCfProperties {
  /** ISO 3166-1 alpha-2. */
  readonly country?: string;
  readonly isEUCountry?: "1";
  readonly continent?: string;
  readonly region?: string;
  readonly regionCode?: string;
  readonly city?: string;
  readonly postalCode?: string;
  readonly metroCode?: string;
  readonly latitude?: string;
  readonly longitude?: string;
  readonly timezone?: string;
  readonly asn?: number;
  readonly asOrganization?: string;
  readonly colo?: string;
  readonly httpProtocol?: string;
  readonly tlsVersion?: string;
  readonly tlsCipher?: string;
  readonly clientAcceptEncoding?: string;
  readonly [key: string]: unknown;
}

interface Request {
  readonly cf?: IncomingRequestCfProperties;
}

interface WebSocket {
  /** Takes up an end of a pair, or a response's socket. One of `new WebSocket()` needs none. */
  accept(): void;
}

/** Two ends of one socket: one for the response, one for the worker. */
interface WebSocketPair extends Iterable<WebSocket> {
  readonly 0: WebSocket;
  readonly 1: WebSocket;
}
declare const WebSocketPair: { new (): WebSocketPair };

interface ResponseInit {
  /** With status 101: the end that the client gets. */
  webSocket?: WebSocket | null;
}

interface Response {
  readonly webSocket: WebSocket | null;
}

/** One firing of a cron line. */
interface ScheduledController {
  /** The line, as configured. */
  readonly cron: string;
  /** When it was due: milliseconds since 1970. */
  readonly scheduledTime: number;
  noRetry(): void;
}

/** The handlers that a worker can export. */
interface ExportedHandler<Env = unknown, Props = unknown> {
  fetch?(request: Request, env: Env, ctx: ExecutionContext<Props>): Response | Promise<Response>;
  /** Decides about a request before it is answered; it has no body. */
  rule?(
    request: Request,
    ctx: ExecutionContext<Props>,
    env: Env,
  ): RuleDecision | undefined | null | void | Promise<RuleDecision | undefined | null | void>;
  scheduled?(
    controller: ScheduledController,
    env: Env,
    ctx: ExecutionContext<Props>,
  ): void | Promise<void>;
}

/** A service binding: another worker. */
interface Fetcher {
  fetch(input: Request | URL | string, init?: RequestInit): Promise<Response>;
}

interface KVGetOptions {
  /** Seconds for which a read may be answered from a cache; at least 30. */
  cacheTtl?: number;
}

interface KVPutOptions {
  /** When the key expires: seconds since 1970. */
  expiration?: number;
  /** Seconds until the key expires; at least 60. */
  expirationTtl?: number;
  /** Anything that is at most 1024 bytes as JSON. */
  metadata?: unknown;
}

interface KVListKey<Metadata = unknown> {
  name: string;
  expiration?: number;
  metadata?: Metadata;
}

type KVListResult<Metadata = unknown> =
  | { keys: KVListKey<Metadata>[]; list_complete: true }
  | { keys: KVListKey<Metadata>[]; list_complete: false; cursor: string };

interface KVValueWithMetadata<Value, Metadata> {
  value: Value | null;
  metadata: Metadata | null;
}

/** A keyspace of the account. */
interface KVNamespace<Key extends string = string> {
  get(key: Key, options?: "text" | (KVGetOptions & { type?: "text" })): Promise<string | null>;
  get<T = unknown>(key: Key, options: "json" | (KVGetOptions & { type: "json" })): Promise<T | null>;
  get(
    key: Key,
    options: "arrayBuffer" | (KVGetOptions & { type: "arrayBuffer" }),
  ): Promise<ArrayBuffer | null>;
  get(
    key: Key,
    options: "stream" | (KVGetOptions & { type: "stream" }),
  ): Promise<ReadableStream<Uint8Array> | null>;
  /** Up to 100 keys at once. */
  get(keys: Key[], options?: "text"): Promise<Map<string, string | null>>;
  get<T = unknown>(keys: Key[], options: "json"): Promise<Map<string, T | null>>;

  getWithMetadata<M = unknown>(
    key: Key,
    options?: "text" | (KVGetOptions & { type?: "text" }),
  ): Promise<KVValueWithMetadata<string, M>>;
  getWithMetadata<T = unknown, M = unknown>(
    key: Key,
    options: "json" | (KVGetOptions & { type: "json" }),
  ): Promise<KVValueWithMetadata<T, M>>;

  put(
    key: Key,
    value: string | ArrayBuffer | ArrayBufferView | ReadableStream,
    options?: KVPutOptions,
  ): Promise<void>;
  delete(key: Key): Promise<void>;
  list<M = unknown>(options?: {
    prefix?: string | null;
    limit?: number;
    cursor?: string | null;
  }): Promise<KVListResult<M>>;
}

declare module "*.wasm" {
  const module: WebAssembly.Module;
  export default module;
}

declare module "*.txt" {
  const text: string;
  export default text;
}

declare module "*.html" {
  const text: string;
  export default text;
}

declare module "*.bin" {
  const data: ArrayBuffer;
  export default data;
}
