export interface ApiMessage {
  code: number;
  message: string;
}

export declare class AtollError extends Error {
  readonly status: number;
  readonly errors: ApiMessage[];
  readonly code: number | undefined;
}

export interface ClientOptions {
  /** The API's base address, such as http://127.0.0.1:8787/client/v4 */
  url: string;
  token: string;
  account: string;
  fetch?: typeof fetch;
}

export interface Namespace {
  id: string;
  title: string;
}

export interface Deployment {
  id: string;
  created_on: string;
  versions: { version_id: string; percentage: number }[];
}

export interface Key {
  name: string;
  expiration?: number;
  metadata?: unknown;
}

export interface PutOptions {
  /** Seconds since 1970. */
  expiration?: number;
  /** Seconds; at least 60. */
  expirationTtl?: number;
  metadata?: unknown;
}

export interface KeyValues {
  get(key: string): Promise<Response | null>;
  put(
    key: string,
    value: string | ArrayBuffer | Uint8Array<ArrayBuffer> | Blob,
    options?: PutOptions,
  ): Promise<void>;
  delete(key: string): Promise<void>;
  list(options?: { prefix?: string }): AsyncGenerator<Key>;
}

export declare class AtollClient {
  constructor(options: ClientOptions);
  request(method: string, path: string, body?: unknown): Promise<Response>;
  envelope<T = unknown>(
    method: string,
    path: string,
    body?: unknown,
  ): Promise<{ result: T; result_info?: { cursor?: string } }>;
  workers(): Promise<{ id: string }[]>;
  deployments(worker: string): Promise<Deployment[]>;
  deleteWorker(worker: string): Promise<void>;
  namespaces(): Promise<Namespace[]>;
  createNamespace(title: string): Promise<Namespace>;
  deleteNamespace(id: string): Promise<void>;
  kv(namespaceId: string): KeyValues;
}
