// One wallet's life over HTTP: node http.mjs http://127.0.0.1:8080. Prints one JSON object.
import { randomUUID } from "node:crypto";
import { Decrypter, Encrypter, armor, generateX25519Identity, identityToRecipient } from "age-encryption";
import { ed25519 } from "@noble/curves/ed25519.js";
import { secp256k1 } from "@noble/curves/secp256k1.js";
import { sha256 } from "@noble/hashes/sha2.js";

const [, , base] = process.argv;
const toB64 = (bytes) => Buffer.from(bytes).toString("base64");
const fromB64 = (text) => new Uint8Array(Buffer.from(text, "base64"));
const identity = await generateX25519Identity(); // this program's own: shares come back encrypted to it
const sealTo = await identityToRecipient(identity);

async function call(method, path, body) {
  const answer = await fetch(base + path, { method, headers: { "content-type": "application/json" }, body: body && JSON.stringify(body) });
  if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${(await answer.json()).message}`);
  return answer;
}
const post = async (path, body) => (await call("POST", path, body)).json();

// run starts a session, reads its lines as they come, and confirms the set of its outcome once its share is open.
async function run(path, body) {
  const answer = await call("POST", path, { requestId: randomUUID(), sealTo, ...body });
  if (answer.headers.get("content-type") !== "application/x-ndjson") throw new Error("no x-ndjson");
  let rest = "", outcome, percents = [];
  for await (const text of answer.body.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + text).split("\n");
    rest = lines.pop();
    for (const { result, error } of lines.filter(Boolean).map((l) => JSON.parse(l))) {
      if (error) throw new Error(error.message);
      if (result.progress) percents.push(result.progress.percent);
      outcome = result.outcome ?? outcome;
    }
  }
  if (percents.at(-1) !== 100) throw new Error("the progress does not end at 100");
  const opener = new Decrypter();
  opener.addIdentity(identity);
  const share = await opener.decrypt(fromB64(outcome.clientShare));
  const walletId = outcome.walletId ?? path.match(/wallets\/([^:]+)/)[1], set = outcome.shareSet.shareSetId;
  const { wallet } = await post(`/v1/wallets/${walletId}/shareSets/${set}:confirm`, { shareSha256: toB64(sha256(share)) });
  return { share, set, wallet, path: `/v1/wallets/${walletId}` };
}
async function sign(device, curve, payload) {
  const { signature } = await post(`${device.path}:sign`, { requestId: randomUUID(), signingShare: toB64(device.share), curve, payload: toB64(payload) });
  const key = fromB64(device.wallet.publicKeys.find((k) => k.curve === curve).publicKey), sig = fromB64(signature);
  return curve === "CURVE_ED25519" ? ed25519.verify(sig, payload, key) : secp256k1.verify(sig, payload, key, { prehash: false });
}
const first = await run("/v1/wallets", { displayName: "first" });
const backup = await run(`${first.path}:backup`, { signingShare: toB64(first.share), backupMethod: "BACKUP_METHOD_PASSWORD" });
const locker = new Encrypter(), unlocker = new Decrypter(), password = "correct horse battery staple";
locker.setPassphrase(password);
unlocker.addPassphrase(password);
const file = armor.encode(await locker.encrypt(backup.share)); // what a customer's own API keeps
const second = await run(`${first.path}:provision`, { backupShare: toB64(await unlocker.decrypt(armor.decode(file))), displayName: "second" });
const message = sha256(new TextEncoder().encode("hello")), verified = [];
for (const device of [first, second]) for (const { curve } of device.wallet.publicKeys) verified.push(await sign(device, curve, message));
const { wallet } = await post(`${first.path}/shareSets/${first.set}:revoke`, { keepDescendants: true });
console.log(JSON.stringify({ walletId: wallet.walletId, verified, states: wallet.shareSets.map((s) => s.state) }));
