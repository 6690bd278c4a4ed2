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
const password = "correct horse battery staple";
const locker = new Encrypter(), opener = new Decrypter(); // of backups, and of what is encrypted to the identity
locker.setPassphrase(password);
opener.addPassphrase(password);
opener.addIdentity(identity);
async function post(path, body) {
  const headers = { "content-type": "application/json" };
  const answer = await fetch(base + path, { method: "POST", headers, body: JSON.stringify(body) });
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${(await answer.json()).message}`);
  return answer.headers.get("content-type") === "application/x-ndjson" ? answer.body : answer.json();
}
// run starts a session, reads its lines as they come, and confirms the set of its outcome once its share is open.
async function run(path, body) {
  const stream = await post(path, { requestId: randomUUID(), sealTo, ...body });
  let rest = "", outcome, percent;
  for await (const text of stream.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + text).split("\n");
    rest = lines.pop();
    for (const { result, error } of lines.filter(Boolean).map((l) => JSON.parse(l))) {
      if (error) throw new Error(error.message);
      percent = result.progress?.percent ?? percent;
      outcome = result.outcome;
    }
  }
  if (percent !== 100) throw new Error(`the run ended at ${percent}%`);
  const share = await opener.decrypt(fromB64(outcome.clientShare));
  const own = outcome.walletId ? `/v1/wallets/${outcome.walletId}` : path.split(":")[0];
  const set = `${own}/shareSets/${outcome.shareSet.shareSetId}`;
  const { wallet } = await post(`${set}:confirm`, { shareSha256: toB64(sha256(share)) });
  return { path: own, set, share: toB64(share), wallet };
}
async function sign({ path, share, wallet }, curve, payload) {
  const request = { requestId: randomUUID(), signingShare: share, curve, payload: toB64(payload) };
  const signature = fromB64((await post(`${path}:sign`, request)).signature);
  const key = fromB64(wallet.publicKeys.find((k) => k.curve === curve).publicKey);
  if (curve === "CURVE_ED25519") return ed25519.verify(signature, payload, key);
  return secp256k1.verify(signature, payload, key, { prehash: false }); // the payload is the digest
}
const first = await run("/v1/wallets", { displayName: "first" });
const backup = await run(`${first.path}:backup`, { signingShare: first.share, backupMethod: "BACKUP_METHOD_PASSWORD" });
const file = armor.encode(await locker.encrypt(fromB64(backup.share))); // what a customer's own API keeps
const backupShare = toB64(await opener.decrypt(armor.decode(file)));
const second = await run(`${first.path}:provision`, { backupShare, displayName: "second" });
const digest = sha256(new TextEncoder().encode("hello")), verified = [];
for (const device of [first, second])
  for (const { curve } of device.wallet.publicKeys) verified.push(await sign(device, curve, digest));
const { wallet } = await post(`${first.set}:revoke`, { keepDescendants: true });
console.log(JSON.stringify({ walletId: wallet.walletId, verified, states: wallet.shareSets.map((s) => s.state) }));
