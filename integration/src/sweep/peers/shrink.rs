//! Removes from a sample the elements that are not needed to show a difference.

use serde_json::Value;

/// Removes one element after the other, large ones first, while `shows` says that the rest still shows the difference.
/// `shows` is called at most `most` times.
pub fn shrink(sample: &Value, most: usize, shows: &mut dyn FnMut(&Value) -> bool) -> Value {
    let mut smallest = sample.clone();
    let mut asked = 0;
    loop {
        let mut shrunk = false;
        let mut places = places(&smallest);
        places.sort_by_key(|pointer| std::cmp::Reverse(size(smallest.pointer(pointer))));
        for pointer in places {
            let Some(candidate) = without(&smallest, &pointer) else { continue };
            if asked == most {
                return smallest;
            }
            asked += 1;
            if shows(&candidate) {
                (smallest, shrunk) = (candidate, true);
                // The pointers behind an element of a list have moved.
                break;
            }
        }
        if !shrunk {
            return smallest;
        }
    }
}

fn size(value: Option<&Value>) -> usize {
    value.map_or(0, |value| value.to_string().len())
}

/// The pointers of all elements except the document itself.
fn places(value: &Value) -> Vec<String> {
    fn walk(value: &Value, pointer: &str, out: &mut Vec<String>) {
        let children: Vec<(String, &Value)> = match value {
            Value::Object(map) => map.iter().map(|(k, v)| (k.replace('~', "~0").replace('/', "~1"), v)).collect(),
            Value::Array(list) => list.iter().enumerate().map(|(index, v)| (index.to_string(), v)).collect(),
            _ => return,
        };
        for (key, child) in children {
            let pointer = format!("{pointer}/{key}");
            walk(child, &pointer, out);
            out.push(pointer);
        }
    }
    let mut out = Vec::new();
    walk(value, "", &mut out);
    out
}

/// The document without the element at `pointer`.
fn without(document: &Value, pointer: &str) -> Option<Value> {
    let mut document = document.clone();
    let (parent, key) = pointer.rsplit_once('/')?;
    match document.pointer_mut(parent)? {
        Value::Object(map) => map.remove(&key.replace("~1", "/").replace("~0", "~")).map(drop)?,
        Value::Array(list) => {
            let at = key.parse().ok().filter(|at| *at < list.len())?;
            list.remove(at);
        }
        _ => return None,
    }
    Some(document)
}

#[cfg(test)]
mod tests {
    use super::shrink;
    use serde_json::json;

    #[test]
    fn what_shows_it_is_all_that_stays() {
        let sample = json!({"a": [1, 2, {"x": true, "y": [5, 6]}], "b/c": {"d": 1}, "e": "text"});
        let small = shrink(&sample, 1000, &mut |v| v.to_string().contains('6') && v.to_string().contains("b/c"));
        assert_eq!(small, json!({"a": [{"y": [6]}], "b/c": {}}));
    }

    #[test]
    fn it_gives_up_in_time() {
        let (sample, mut asked) = (json!({"a": 1, "b": 2, "c": 3}), 0);
        let small = shrink(&sample, 2, &mut |_| {
            asked += 1;
            false
        });
        assert_eq!((small, asked), (sample, 2));
    }
}
