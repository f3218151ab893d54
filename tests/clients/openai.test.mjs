// The stock JavaScript client against a node, whose address and key stand in the environment.
import assert from "node:assert/strict";
import test from "node:test";
import OpenAI from "openai";

const baseURL = process.env.AGENTOS_URL + "/v1";
const echo = "builtin/echo-1";
const embed = "builtin/hash-embed-1";
const client = new OpenAI({ baseURL, apiKey: process.env.AGENTOS_KEY, maxRetries: 0 });
const say = (content) => [{ role: "user", content }];

test("chat", async () => {
  const got = await client.chat.completions.create({ model: echo, messages: say("hello"), temperature: 0, max_completion_tokens: 64 });
  assert.equal(got.choices[0].message.content, "echo: hello");
  assert.equal(got.choices[0].finish_reason, "stop");
  assert.equal(got.model, echo);
  assert.ok(got.usage.total_tokens > 0);
});

test("streamed chat", async () => {
  const stream = await client.chat.completions.create({ model: echo, messages: say("/tokens 5"), stream: true, stream_options: { include_usage: true } });
  let text = "";
  let usage;
  let finish;
  for await (const piece of stream) {
    text += piece.choices[0]?.delta?.content ?? "";
    finish = piece.choices[0]?.finish_reason ?? finish;
    usage = piece.usage ?? usage;
  }
  assert.equal(text, "w1 w2 w3 w4 w5");
  assert.equal(finish, "stop");
  assert.equal(usage.completion_tokens, 5);
});

test("the stream helper", async () => {
  const runner = client.chat.completions.stream({ model: echo, messages: say("/tokens 3") });
  assert.equal((await runner.finalChatCompletion()).choices[0].message.content, "w1 w2 w3");
});

test("a stream that breaks off", async () => {
  let text = "";
  await assert.rejects(
    async () => {
      for await (const piece of await client.chat.completions.create({ model: echo, messages: say("/cut 2"), stream: true })) {
        text += piece.choices[0]?.delta?.content ?? "";
      }
    },
    (e) => e instanceof OpenAI.APIError && e.code === "dependency_unavailable",
  );
  assert.equal(text, "w1 w2");
});

test("tools", async () => {
  const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
  const tools = [{ type: "function", function: { name: "lookup", description: "Tells the weather.", parameters } }];
  const messages = say('/call lookup {"city":"Oslo"}');
  const streamed = await client.chat.completions.stream({ model: echo, messages, tools }).finalChatCompletion();
  const plain = await client.chat.completions.create({ model: echo, messages, tools, tool_choice: "auto" });
  for (const answer of [streamed, plain]) {
    const message = answer.choices[0].message;
    assert.equal(answer.choices[0].finish_reason, "tool_calls");
    assert.equal(message.tool_calls[0].function.name, "lookup");
    assert.deepEqual(JSON.parse(message.tool_calls[0].function.arguments), { city: "Oslo" });
    const output = { role: "tool", tool_call_id: message.tool_calls[0].id, content: '{"celsius":-3}' };
    const next = await client.chat.completions.create({ model: echo, messages: [...messages, message, output], tools });
    assert.equal(next.choices[0].message.content, '{"celsius":-3}');
  }
});

test("the tool runner", async () => {
  const asked = [];
  const lookup = {
    type: "function",
    function: {
      name: "lookup",
      parse: JSON.parse,
      function: ({ city }) => {
        asked.push(city);
        return { celsius: -3 };
      },
      parameters: { type: "object", properties: { city: { type: "string" } } },
    },
  };
  const runner = client.chat.completions.runTools({ model: echo, messages: say('/call lookup {"city":"Oslo"}'), tools: [lookup] });
  assert.equal(await runner.finalContent(), '{"celsius":-3}');
  assert.deepEqual(asked, ["Oslo"]);
});

test("embeddings", async () => {
  const input = ["a parcel", "a letter"];
  const implied = await client.embeddings.create({ model: embed, input }); // the client asks for base64 and unpacks it
  const float = await client.embeddings.create({ model: embed, input, encoding_format: "float" });
  const packed = await client.embeddings.create({ model: embed, input, encoding_format: "base64" });
  assert.equal(implied.data.length, 2);
  assert.equal(implied.data[0].embedding.length, 256);
  assert.equal(typeof packed.data[0].embedding, "string");
  float.data[1].embedding.forEach((v, i) => assert.ok(Math.abs(v - implied.data[1].embedding[i]) < 1e-6));
});

test("models", async () => {
  const ids = [];
  for await (const model of client.models.list()) ids.push(model.id);
  assert.ok(ids.includes(echo) && ids.includes(embed), ids.join());
  assert.equal((await client.models.retrieve(echo)).owned_by, "agentos-builtin");
});

test("errors", async () => {
  const none = { model: "none", messages: say("x") };
  const unknown = (e) => e instanceof OpenAI.NotFoundError && e.status === 404 && e.code === "not_found" && e.param === "model" && e.type === "invalid_request_error";
  await assert.rejects(client.chat.completions.create(none), unknown);
  await assert.rejects(client.chat.completions.create({ ...none, stream: true }), unknown);
  await assert.rejects(client.models.retrieve("builtin/none"), unknown);
  const stranger = new OpenAI({ baseURL, apiKey: "aos_wrong", maxRetries: 0 });
  const refused = (e) => e instanceof OpenAI.AuthenticationError && e.status === 401 && e.code === "unauthorized" && e.type === "authentication_error";
  await assert.rejects(stranger.chat.completions.create({ model: echo, messages: say("x") }), refused);
  await assert.rejects(stranger.models.list(), refused);
  const invalid = (e) => e instanceof OpenAI.BadRequestError && e.param === "n";
  await assert.rejects(client.chat.completions.create({ model: echo, messages: say("x"), n: 2 }), invalid);
});
