// A test suite in another language: it drives a served emulator with fetch alone.
import assert from "node:assert/strict";
import test from "node:test";

const { ITP_API_URL: api, ITP_ISSUER_URL: issuer, ITP_SERVICE_CLIENT_ID: id,
  ITP_SERVICE_CLIENT_SECRET: secret } = process.env;
const accept = "application/vnd.bentley.itwin-platform.v1+json";
const agent = { "User-Agent": "node-test/1" };
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

async function control(path, body) {
  const options = body && {
    method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" },
  };
  const answer = await fetch(`${api}/emulator/${path}`, options);
  assert.ok(answer.ok, await answer.clone().text());
  return answer.status === 204 ? null : answer.json();
}

async function token() {
  const body = new URLSearchParams({
    grant_type: "client_credentials", client_id: id, client_secret: secret,
    scope: "itwin-platform",
  });
  const answer = await fetch(`${issuer}/connect/token`, { method: "POST", body });
  return (await answer.json()).access_token;
}

async function call(bearer, method, url, body) {
  const headers = { ...agent, Accept: accept, Authorization: `Bearer ${bearer}` };
  for (;;) {
    const options = { method, headers, body: body && JSON.stringify(body), redirect: "manual" };
    const answer = await fetch(url, options);
    if (answer.status !== 503) return answer;
    await sleep(1000 * Number(answer.headers.get("Retry-After")));
  }
}

async function runToEnd(bearer, imodelId) {
  const created = await call(bearer, "POST", `${api}/export/connections`, { iModelId: imodelId });
  const { connection } = await created.json();
  const runs = `${api}/export/connections/${connection.id}/runs`;
  const started = await call(bearer, "POST", runs, { exportType: "IFC" });
  assert.equal(started.status, 202);
  for (;;) {
    const { run } = await (await call(bearer, "GET", started.headers.get("Location"))).json();
    if (run.state === "Completed") return run;
    await sleep(20);
  }
}

test("an export ends with an IFC file, past a fault", async () => {
  await control("reset", {});
  const { imodels } = await control("state");
  await control("plans", { imodelId: imodels[0].id, duration: 0.2 });
  await control("faults", { operation: "get_run", status: 503, headers: { "Retry-After": 1 } });
  const bearer = await token();
  const run = await runToEnd(bearer, imodels[0].id);
  assert.equal(run.result, "Success");
  const file = run.jobs[0].tasks[0].exportOutputFileId;
  const redirect = await call(bearer, "GET", `${api}/storage/files/${file}/download`);
  const content = await (await fetch(redirect.headers.get("Location"))).text();
  assert.ok(content.startsWith("ISO-10303-21;"));
  assert.deepEqual(await control("violations"), { violations: [], unmetFaults: [] });
});

test("a planned failure names its task error", async () => {
  await control("reset", {});
  const { id: imodelId } = await control("imodels", { name: "Tunnel" });
  await control("plans", { imodelId, result: "Error", duration: 0.1 });
  const run = await runToEnd(await token(), imodelId);
  assert.equal(run.result, "Error");
  assert.equal(run.jobs[0].tasks[0].error.descriptionKey, "FailedToExport");
});
