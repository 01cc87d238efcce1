//! Lua scripts over the keys of a simulated Redis.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use mlua::{Function, IntoLua, Lua, MultiValue, Table, Value};

use crate::{keyspace::Keyspace, reply::Reply};

/// Keys that commands and scripts share.
pub type SharedKeys = Arc<Mutex<Keyspace>>;

/// A Lua interpreter whose scripts call the commands of a keyspace.
pub struct Scripts {
    lua: Lua,
    compiled: BTreeMap<Vec<u8>, Function>,
}

impl Scripts {
    pub fn new(keys: SharedKeys) -> Self {
        let lua = Lua::new();
        let call = lua
            .create_function(move |lua, arguments: MultiValue| {
                let words: Vec<Vec<u8>> = arguments.iter().map(word).collect::<Result<_, _>>()?;
                let reply = lock(&keys).call(&words);
                match reply.unwrap_or_else(|| Reply::Error("ERR Unknown Redis command called from script".into())) {
                    Reply::Error(error) => Err(mlua::Error::runtime(error)),
                    reply => to_lua(reply, lua),
                }
            })
            .expect("a function");
        let redis = lua.create_table().expect("a table");
        redis.set("call", call).expect("a table takes it");
        lua.globals().set("redis", redis).expect("a table takes it");
        Self { lua, compiled: BTreeMap::new() }
    }

    /// Runs a script. `words` are those of `EVAL` after the script: the number of keys, the keys, the arguments.
    pub fn eval(&mut self, script: &[u8], words: &[Vec<u8>]) -> Reply {
        let count = words.first().and_then(|count| std::str::from_utf8(count).ok()?.parse::<usize>().ok());
        let Some((count, rest)) = count.map(|count| (count, &words[1..])).filter(|(count, rest)| *count <= rest.len()) else {
            return Reply::Error("ERR Number of keys can't be greater than number of args".into());
        };
        let (keys, arguments) = rest.split_at(count);
        match self.run(script, keys, arguments) {
            Ok(reply) => reply,
            Err(error) => Reply::Error(text_of(&error)),
        }
    }

    fn run(&mut self, script: &[u8], keys: &[Vec<u8>], arguments: &[Vec<u8>]) -> mlua::Result<Reply> {
        let list = |items: &[Vec<u8>]| -> mlua::Result<Table> {
            self.lua.create_sequence_from(items.iter().map(|item| self.lua.create_string(item)).collect::<Result<Vec<_>, _>>()?)
        };
        self.lua.globals().set("KEYS", list(keys)?)?;
        self.lua.globals().set("ARGV", list(arguments)?)?;
        let function = match self.compiled.get(script) {
            Some(function) => function.clone(),
            None => {
                let function = self.lua.load(script).into_function()?;
                self.compiled.insert(script.to_vec(), function.clone());
                function
            }
        };
        from_lua(function.call(())?)
    }
}

/// Returns the text of an error: that of the command that failed, if one did.
fn text_of(error: &mlua::Error) -> String {
    match error {
        mlua::Error::CallbackError { cause, .. } => text_of(cause),
        mlua::Error::RuntimeError(text) => text.clone(),
        _ => format!("ERR {error}"),
    }
}

fn lock(keys: &SharedKeys) -> MutexGuard<'_, Keyspace> {
    keys.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Converts an argument of `redis.call`.
fn word(value: &Value) -> mlua::Result<Vec<u8>> {
    match value {
        Value::String(text) => Ok(text.as_bytes().to_vec()),
        Value::Integer(number) => Ok(number.to_string().into_bytes()),
        Value::Number(number) => Ok(number.to_string().into_bytes()),
        _ => Err(mlua::Error::runtime("Lua redis lib command arguments must be strings or integers")),
    }
}

/// Converts a reply as Redis does for scripts, which see RESP2.
fn to_lua(reply: Reply, lua: &Lua) -> mlua::Result<Value> {
    match reply {
        Reply::Int(number) => number.into_lua(lua),
        Reply::Bulk(bytes) => lua.create_string(bytes)?.into_lua(lua),
        Reply::Array(items) => {
            let items = items.into_iter().map(|item| to_lua(item, lua)).collect::<Result<Vec<_>, _>>()?;
            lua.create_sequence_from(items)?.into_lua(lua)
        }
        Reply::Simple(text) => {
            let table = lua.create_table()?;
            table.set("ok", text)?;
            table.into_lua(lua)
        }
        _ => Ok(Value::Boolean(false)),
    }
}

/// Converts the result of a script to a reply.
fn from_lua(value: Value) -> mlua::Result<Reply> {
    Ok(match value {
        Value::Integer(number) => Reply::Int(number),
        Value::Number(number) => Reply::Int(number as i64),
        Value::String(text) => Reply::bulk(text.as_bytes().to_vec()),
        Value::Boolean(true) => Reply::Int(1),
        Value::Table(table) => match table.get::<Option<String>>("ok")? {
            Some(_) => Reply::OK,
            None => Reply::Array(table.sequence_values::<Value>().map(|item| from_lua(item?)).collect::<Result<_, _>>()?),
        },
        _ => Reply::Null,
    })
}
