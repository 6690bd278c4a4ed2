// One wallet's life over gRPC, with stubs of protoc-gen-es: node grpc.mjs http://127.0.0.1:9090. Prints JSON.
import { randomUUID } from "node:crypto";
import { createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { Decrypter, Encrypter, armor, generateX25519Identity, identityToRecipient } from "age-encryption";
import { ed25519 } from "@noble/curves/ed25519.js";
import { secp256k1 } from "@noble/curves/secp256k1.js";
import { sha256 } from "@noble/hashes/sha2.js";
import { BackupMethod, Curve, ShareSetState } from "./gen/mpcd/v1/wallet_pb.js";
import { WalletService } from "./gen/mpcd/v1/wallet_service_pb.js";

const [, , baseUrl] = process.argv;
const service = createClient(WalletService, createGrpcTransport({ baseUrl }));
const identity = await generateX25519Identity(); // this program's own: shares come back encrypted to it
const sealTo = await identityToRecipient(identity);

// run starts a session, reads its messages, and confirms the set of its outcome once its share is open.
async function run(rpc, request) {
  let outcome, done = false;
  for await (const { event } of service[rpc]({ requestId: randomUUID(), sealTo, ...request })) {
    if (event.case === "progress") done = event.value.done;
    if (event.case === "outcome") outcome = event.value;
  }
  if (!done) throw new Error("the progress does not end with done");
  const opener = new Decrypter();
  opener.addIdentity(identity);
  const share = await opener.decrypt(outcome.clientShare);
  const walletId = outcome.walletId ?? request.walletId, shareSetId = outcome.shareSet.shareSetId;
  const { wallet } = await service.confirmShareSet({ walletId, shareSetId, shareSha256: sha256(share) });
  return { share, shareSetId, walletId, wallet };
}
async function sign({ walletId, share, wallet }, curve, payload) {
  const { signature } = await service.sign({ requestId: randomUUID(), walletId, signingShare: share, curve, payload });
  const { publicKey } = wallet.publicKeys.find((k) => k.curve === curve);
  if (curve === Curve.ED25519) return ed25519.verify(signature, payload, publicKey);
  return secp256k1.verify(signature, payload, publicKey, { prehash: false });
}
const first = await run("createWallet", { displayName: "first" });
const { walletId } = first;
const clientSide = { case: "signingShare", value: first.share };
const backup = await run("backupWallet", { walletId, clientSide, backupMethod: BackupMethod.PASSWORD });
const locker = new Encrypter(), unlocker = new Decrypter(), password = "correct horse battery staple";
locker.setPassphrase(password);
unlocker.addPassphrase(password);
const file = armor.encode(await locker.encrypt(backup.share)); // what a customer's own API keeps
const backupShare = await unlocker.decrypt(armor.decode(file));
const fromBackup = { case: "backupShare", value: backupShare };
const second = await run("provisionWallet", { walletId, clientSide: fromBackup, displayName: "second" });
const digest = sha256(new TextEncoder().encode("hello")), verified = [];
for (const device of [first, second])
  for (const { curve } of device.wallet.publicKeys) verified.push(await sign(device, curve, digest));
const { wallet } = await service.revokeShareSet({ walletId, shareSetId: first.shareSetId, keepDescendants: true });
const states = wallet.shareSets.map((s) => `SHARE_SET_STATE_${ShareSetState[s.state]}`);
console.log(JSON.stringify({ walletId, verified, states }));
