// One wallet's life with the client that openapi-typescript and openapi-fetch make of gen/openapi/mpcd.openapi.json.
// Ed25519 alone: what is tried here is the description. Prints one JSON object.
import { createHash, createPublicKey, randomUUID, verify } from "node:crypto";
import createClient from "openapi-fetch";
import type { components, paths } from "./api.js";

type Schemas = components["schemas"];
type Line =
  | Schemas["CreateWalletLine"]
  | Schemas["BackupWalletLine"]
  | Schemas["ProvisionWalletLine"];
type Outcome = Schemas["CreateWalletResult"];
type Answer = { data?: ReadableStream<Uint8Array> | null; error?: Schemas["google.rpc.Status"] };
type Held = { share: Buffer; shareSetId: string; wallet: Schemas["Wallet"] };

const baseUrl = process.argv[2];
const api = createClient<paths>({ baseUrl });

// must returns what a call answered, or throws the google.rpc.Status that it answered instead.
function must<T>({ data, error }: { data?: T; error?: Schemas["google.rpc.Status"] }): T {
  if (data === undefined) throw new Error(`${error?.code}: ${error?.message}`);
  return data;
}

// outcome reads a stream, one line after the other.
async function outcome(answer: Answer): Promise<Outcome> {
  const stream = must(answer);
  let rest = "";
  let percent = 0;
  for await (const chunk of stream!.pipeThrough(new TextDecoderStream() as ReadableWritablePair<string, Uint8Array>)) {
    const lines = (rest + chunk).split("\n");
    rest = lines.pop()!;
    for (const text of lines) {
      const line: Line = JSON.parse(text);
      if ("error" in line) throw new Error(line.error.message);
      if (line.result.progress) percent = line.result.progress.percent ?? 0;
      if (line.result.outcome) {
        if (percent !== 100) throw new Error(`the outcome came at ${percent}%`);
        return line.result.outcome;
      }
    }
  }
  throw new Error("the stream was cut off");
}

// confirm says that the outcome's share is kept.
async function confirm(wallet_id: string, result: Outcome): Promise<Held> {
  const share = Buffer.from(result.clientShare!, "base64");
  const share_set_id = result.shareSet!.shareSetId!;
  const { wallet } = must(
    await api.POST("/v1/wallets/{wallet_id}/shareSets/{share_set_id}:confirm", {
      params: { path: { wallet_id, share_set_id } },
      body: { shareSha256: createHash("sha256").update(share).digest("base64") },
    }),
  );
  return { share, shareSetId: share_set_id, wallet: wallet! };
}

async function sign(wallet_id: string, device: Held): Promise<boolean> {
  const payload = Buffer.from("hello");
  const { signature } = must(
    await api.POST("/v1/wallets/{wallet_id}:sign", {
      params: { path: { wallet_id } },
      body: {
        requestId: randomUUID(),
        signingShare: device.share.toString("base64"),
        curve: "CURVE_ED25519",
        payload: payload.toString("base64"),
      },
    }),
  );
  const x = Buffer.from(device.wallet.publicKeys![0].publicKey!, "base64").toString("base64url");
  const key = createPublicKey({ format: "jwk", key: { kty: "OKP", crv: "Ed25519", x } });
  return verify(null, payload, key, Buffer.from(signature!, "base64"));
}

const toCreate: Schemas["CreateWalletRequest"] = {
  requestId: randomUUID(),
  curves: ["CURVE_ED25519"],
  displayName: "first",
};
const creating = await api.POST("/v1/wallets", { body: toCreate, parseAs: "stream" });
const created = await outcome(creating);
const wallet_id = created.walletId!;
const params = { path: { wallet_id } };
const first = await confirm(wallet_id, created);
const toBackUp: Schemas["BackupWalletRequest"] = {
  requestId: randomUUID(),
  backupMethod: "BACKUP_METHOD_CUSTOM",
  signingShare: first.share.toString("base64"),
};
const backingUp = await api.POST("/v1/wallets/{wallet_id}:backup", { params, body: toBackUp, parseAs: "stream" });
const backup = await confirm(wallet_id, await outcome(backingUp));
const provisioning = await api.POST("/v1/wallets/{wallet_id}:provision", {
  params,
  body: { requestId: randomUUID(), backupShare: backup.share.toString("base64"), displayName: "second" },
  parseAs: "stream",
});
const second = await confirm(wallet_id, await outcome(provisioning));
const verified = [await sign(wallet_id, first), await sign(wallet_id, second)];
must(
  await api.POST("/v1/wallets/{wallet_id}/shareSets/{share_set_id}:revoke", {
    params: { path: { wallet_id, share_set_id: first.shareSetId } },
    body: { keepDescendants: true },
  }),
);
const { wallet } = must(await api.GET("/v1/wallets/{wallet_id}", { params }));

// Both calls fail before a first line: the body is the google.rpc.Status alone, of a unary call and of a stream.
const refusals = [];
for (const share of [first.share, Buffer.from("no share")]) {
  const body = { requestId: randomUUID(), signingShare: share.toString("base64") };
  const signed = await api.POST("/v1/wallets/{wallet_id}:sign", {
    params,
    body: { ...body, curve: "CURVE_ED25519", payload: "aGVsbG8=" },
  });
  const backedUp = await api.POST("/v1/wallets/{wallet_id}:backup", {
    params,
    body: { ...body, backupMethod: "BACKUP_METHOD_CUSTOM" },
    parseAs: "stream",
  });
  for (const { error, response } of [signed, backedUp]) refusals.push([response.status, error?.details[0].reason]);
}
const states = wallet!.shareSets!.map((s) => s.state);
console.log(JSON.stringify({ walletId: wallet!.walletId, verified, states, refusals }));
