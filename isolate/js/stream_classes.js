// The Workers platform's own streams: of a fixed length, of bytes that go through, and digests. Loaded late.
(function () {
const { core, primordials } = __bootstrap;
const {
  BigInt,
  Promise,
  SafeArrayIterator,
  TypeError,
  TypedArrayPrototypeGetByteLength,
  TypedArrayPrototypeSet,
  TypedArrayPrototypeSlice,
  Uint8Array,
} = primordials;
const { TransformStream, WritableStream } = core.loadExtScript("ext:deno_web/06_streams.js");
const cryptoModule = core.loadExtScript("ext:deno_crypto/00_crypto.js");
const { bytesOf } = core.loadExtScript("ext:atoll/bytes.js");

class IdentityTransformStream extends TransformStream {
  constructor(_writableStrategy = undefined) {
    super({ transform: (chunk, controller) => controller.enqueue(bytesOf(chunk)) });
  }
}

class FixedLengthStream extends TransformStream {
  constructor(expectedLength, _writableStrategy = undefined) {
    const expected = BigInt(expectedLength);
    let seen = 0n;
    super({
      transform(chunk, controller) {
        const bytes = bytesOf(chunk);
        seen += BigInt(TypedArrayPrototypeGetByteLength(bytes));
        if (seen > expected) throw new TypeError("Attempt to write too many bytes through a FixedLengthStream.");
        controller.enqueue(bytes);
      },
      flush() {
        if (seen < expected) throw new TypeError("FixedLengthStream did not see all expected bytes before close().");
      },
    });
  }
}

class DigestStream extends WritableStream {
  #digest;
  constructor(algorithm) {
    let resolve, reject;
    const digest = new Promise((yes, no) => {
      resolve = yes;
      reject = no;
    });
    let parts = [];
    let total = 0;
    super({
      write(chunk) {
        const bytes = typeof chunk === "string" ? core.encode(chunk) : TypedArrayPrototypeSlice(bytesOf(chunk));
        total += TypedArrayPrototypeGetByteLength(bytes);
        parts[parts.length] = bytes;
      },
      async close() {
        const whole = new Uint8Array(total);
        let at = 0;
        for (const part of new SafeArrayIterator(parts)) {
          TypedArrayPrototypeSet(whole, part, at);
          at += TypedArrayPrototypeGetByteLength(part);
        }
        parts = [];
        resolve(await cryptoModule.crypto.subtle.digest(algorithm, whole));
      },
      abort(reason) {
        reject(reason);
      },
    });
    this.#digest = digest;
  }
  get digest() {
    return this.#digest;
  }
}

return { DigestStream, FixedLengthStream, IdentityTransformStream };
})();
